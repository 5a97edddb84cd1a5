"""Test the outputs, failures, instance ids and rewinds of sub-orchestrations."""

from typing import Any

from functions_tests.durable.durable_host import EngineHost, child


async def test_parent_receives_the_outputs(
    host: EngineHost,
) -> None:
    child(host)

    @host.runner.orchestrator
    def parent(context: Any) -> Any:
        tasks = [context.call_sub_orchestrator("child", n, f"c{n}") for n in range(2)]
        return (yield context.task_all(tasks))

    await host.begin("parent")
    await host.raise_event("go", "x", "c0")
    await host.kill()
    await host.start()
    await host.raise_event("go", "y", "c1")
    assert host.output() == [["i", 0, "x"], ["i", 1, "y"]]


async def test_parent_receives_the_failure(
    host: EngineHost,
) -> None:
    child(host)

    @host.runner.orchestrator
    def parent(context: Any) -> Any:
        yield context.call_sub_orchestrator("child", 1, "c")

    await host.begin("parent")
    await host.raise_event("go", "fail", "c")
    failure = "Orchestrator function 'child' failed: told to"
    details = "Message: told to, StackTrace: "
    assert host.output("c") == failure
    assert host.output() == f"Orchestrator function 'parent' failed: {failure} \n {details}"
    assert host.status() == "Failed"


async def test_instance_id_in_use_fails(
    host: EngineHost,
) -> None:
    child(host)

    @host.runner.orchestrator
    def parent(context: Any) -> Any:
        yield context.call_sub_orchestrator("child", 1, "taken")

    await host.begin("child", 1, "taken")
    await host.begin("parent")
    assert "already exists" in host.output()
    assert host.status("taken") == "Running"


async def test_rewind_includes_the_failed_child(
    local_host: EngineHost,
) -> None:
    host = local_host
    tries = []

    @host.runner.activity
    def work(value: int) -> int:
        tries.append(value)
        if len(tries) == 1:
            raise OSError("first")
        return value

    @host.runner.orchestrator
    def below(context: Any) -> Any:
        return (yield context.call_activity("work", context.get_input()))

    @host.runner.orchestrator
    def above(context: Any) -> Any:
        return (yield context.call_sub_orchestrator("below", 7, "c"))

    await host.begin("above")
    assert (host.status(), host.status("c")) == ("Failed", "Failed")
    await host.engine.rewind("i")
    await host.settle()
    assert (host.output(), host.output("c")) == (7, 7)
