"""Orchestrations that others have called."""

from typing import Any

from functions_tests.durable.durable_host import World, child


async def test_sub_orchestrations(world: World) -> None:
    child(world)

    @world.runner.orchestrator
    def parent(context: Any) -> Any:
        tasks = [context.call_sub_orchestrator("child", n, f"c{n}") for n in range(2)]
        return (yield context.task_all(tasks))

    await world.begin("parent")
    await world.raise_event("go", "x", "c0")
    await world.kill()
    await world.start()
    await world.raise_event("go", "y", "c1")
    assert world.output() == [["i", 0, "x"], ["i", 1, "y"]]


async def test_failure_of_a_child_reaches_its_parent(world: World) -> None:
    child(world)

    @world.runner.orchestrator
    def parent(context: Any) -> Any:
        yield context.call_sub_orchestrator("child", 1, "c")

    await world.begin("parent")
    await world.raise_event("go", "fail", "c")
    failure = "Orchestrator function 'child' failed: told to"
    assert world.output("c") == failure
    assert world.output() == f"Orchestrator function 'parent' failed: {failure} \n "
    assert world.status() == "Failed"


async def test_child_whose_id_is_taken(world: World) -> None:
    child(world)

    @world.runner.orchestrator
    def parent(context: Any) -> Any:
        yield context.call_sub_orchestrator("child", 1, "taken")

    await world.begin("child", 1, "taken")
    await world.begin("parent")
    assert "already exists" in world.output()
    assert world.status("taken") == "Running"


async def test_rewind_of_a_parent_rewinds_its_child(local_world: World) -> None:
    world = local_world
    tries = []

    @world.runner.activity
    def work(value: int) -> int:
        tries.append(value)
        if len(tries) == 1:
            raise OSError("first")
        return value

    @world.runner.orchestrator
    def below(context: Any) -> Any:
        return (yield context.call_activity("work", context.get_input()))

    @world.runner.orchestrator
    def above(context: Any) -> Any:
        return (yield context.call_sub_orchestrator("below", 7, "c"))

    await world.begin("above")
    assert (world.status(), world.status("c")) == ("Failed", "Failed")
    await world.engine.rewind("i")
    await world.settle()
    assert (world.output(), world.output("c")) == (7, 7)
