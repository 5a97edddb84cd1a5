"""Test durable engines: changed code, outages of the app, low memory and a database in use."""

from datetime import timedelta
from typing import Any

import pytest

from emulator.functions.durable.errors import DatabaseInUse
from functions_tests.durable.durable_host import EngineHost, child


async def test_changed_code_fails_the_instance(
    host: EngineHost,
) -> None:
    names = ["first", "second"]

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        for name in names:
            yield context.create_timer(context.current_utc_datetime + timedelta(seconds=9))
            yield context.wait_for_external_event(name)

    await host.begin("body")
    await host.advance(seconds=9)
    await host.raise_event("first")
    names.clear()
    await host.raise_event("other")
    assert host.status() == "Failed"
    assert "Non-Deterministic workflow detected" in host.output()


async def test_output_contains_the_error_of_changed_code(
    host: EngineHost,
) -> None:
    is_changed = False

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        if is_changed:
            raise ValueError("changed")
        yield context.wait_for_external_event("go")
        yield context.wait_for_external_event("go")

    await host.begin("body")
    is_changed = True
    await host.raise_event("go")
    assert host.status() == "Failed"
    assert host.output() == "Orchestrator function 'body' failed: changed"


async def test_output_that_is_not_json_fails_the_instance(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        return object()

    await host.begin("body")
    assert host.status() == "Failed"
    assert "not JSON serializable" in host.output()


async def test_reply_without_actions_fails_the_instance(host: EngineHost) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        context.set_custom_status(object())
        yield context.wait_for_external_event("go")

    await host.begin("body")
    assert host.output() == (
        "Orchestrator function 'body' failed: One or more errors occurred. (Result: Failure\n"
        "Exception: TypeError: class <class 'object'> does not expose a `to_json` function\n"
        "Stack: )"
    )


async def test_reply_without_actions_looks_like_changed_code(
    host: EngineHost,
) -> None:
    @host.runner.activity
    def work(value: int) -> int:
        return value

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.call_activity("work", 1)
        context.set_custom_status(object())
        yield context.wait_for_external_event("go")

    await host.begin("body")
    assert host.status() == "Failed"
    assert host.output() == (
        "Non-Deterministic workflow detected: A previous execution of this orchestration scheduled "
        "an activity task with sequence ID 0 and name 'work' (version ''), but the current replay "
        "execution hasn't (yet?) scheduled this task. Was a change made to the orchestrator code "
        "after this instance had already started running?"
    )


async def test_orchestration_continues_after_an_outage(
    host: EngineHost,
) -> None:
    child(host)

    @host.runner.activity
    def work(value: int) -> int:
        return value

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity("work", 1))

    host.runner.down = True
    await host.begin("body")
    for _ in range(10):
        await host.advance(seconds=1)
    assert host.status() == "Pending"
    host.runner.down = False
    await host.advance(seconds=1)
    assert host.output() == 1
    assert host.runner.calls == [("work", 1)]


async def test_result_during_an_outage_is_not_lost(
    local_host: EngineHost,
) -> None:
    host = local_host

    @host.runner.activity
    def work(value: int) -> int:
        host.runner.down = True
        return value

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity("work", 1))

    await host.begin("body")
    assert host.local_engine.store.read("SELECT count(*) FROM work") == [(0,)]
    await host.kill()
    host.runner.down = False
    await host.start()
    await host.settle()
    assert host.output() == 1
    assert len(host.runner.calls) == 1


async def test_idle_instances_leave_a_full_memory(
    local_host: EngineHost,
) -> None:
    host = local_host
    child(host)
    host.local_engine.cache.memory_characters = 20_000
    for number in range(60):
        await host.begin("child", number, f"m{number}")
    assert len(host.local_engine.cache.list_cached()) < 20
    for number in range(60):
        await host.raise_event("go", "x", f"m{number}")
        assert host.output(f"m{number}") == [None, number, "x"]


async def test_second_host_cannot_open_the_database(
    local_host: EngineHost,
) -> None:
    host = local_host
    other = EngineHost(host.database)
    with pytest.raises(DatabaseInUse):
        await other.start()
