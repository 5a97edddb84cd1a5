"""What becomes of instances: children, renewal, suspension, failure, outages, restarts."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from emulator.functions.durable.errors import ArgumentInvalid, InstanceExists, OperationInvalid
from functions_tests.durable.durable_host import World, child


async def test_continue_as_new(world: World) -> None:
    @world.runner.activity
    def work(n: int) -> int:
        return n

    @world.runner.orchestrator
    def eternal(context: Any) -> Any:
        n = context.get_input()
        yield context.call_activity("work", n)
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=1))
        if n < 3:
            context.continue_as_new(n + 1)
            return None
        return n

    instance = await world.begin("eternal", 0)
    executions = {instance.execution}
    for _ in range(4):
        await world.advance(seconds=1)
        executions.add(world.engine.find("i").execution)
    assert world.output() == 3
    assert len(executions) == 4
    assert world.scheduled() == [(0, "work"), (1, "timer")]


async def test_a_renewed_instance_hears_nothing_of_its_past(world: World) -> None:
    gates = {0: asyncio.Event(), 1: asyncio.Event()}

    @world.runner.activity
    async def work(n: int) -> int:
        await gates[n].wait()
        return n

    @world.runner.orchestrator
    def eternal(context: Any) -> Any:
        n = context.get_input()
        result = context.call_activity("work", n)
        limit = context.create_timer(context.current_utc_datetime + timedelta(seconds=10))
        renew = context.wait_for_external_event("renew")
        tasks = [result, limit, renew]
        if n == 0:
            day = timedelta(days=1)
            tasks.append(context.create_timer(context.current_utc_datetime + day))
        first = yield context.task_any(tasks)
        if first is renew:
            context.continue_as_new(1)
            return None
        return ["limit" if first is limit else first.result, n]

    await world.engine.start_new("eternal", "i", json.dumps("0"))
    await world.pump()
    await world.engine.raise_event("i", "renew", "null")
    await world.pump()
    if world.storage is None:
        timers = world.local.store.read("SELECT execution FROM timers")
        assert timers == [(world.engine.find("i").execution,)]
    gates[0].set()
    await world.pump()
    assert world.status() == "Running"
    gates[1].set()
    await world.settle()
    assert world.output() == [1, 1]


async def test_only_new_events_are_new(world: World) -> None:
    child(world)
    await world.begin("child", 'a "IsPlayed":false in the input')
    await world.raise_event("go", 'and "IsPlayed":false in an event')
    assert world.output() == [
        None,
        'a "IsPlayed":false in the input',
        'and "IsPlayed":false in an event',
    ]
    first, second = world.runner.contexts
    assert [event["IsPlayed"] for event in first["history"]] == [False, False]
    assert [event["IsPlayed"] for event in second["history"]] == [True, True, True, False, False]
    assert (first["isReplaying"], second["isReplaying"]) == (False, True)


async def test_custom_status_and_input(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        context.set_custom_status({"at": context.get_input()["step"]})
        yield context.wait_for_external_event("go")
        context.set_custom_status(None)

    await world.begin("body", {"step": "é\u2028"})
    assert json.loads(world.engine.find("i").custom_status or "") == {"at": "é\u2028"}
    await world.raise_event("go")
    assert world.engine.find("i").custom_status is None
    assert world.status() == "Completed"


async def test_long_timer(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.create_timer(context.current_utc_datetime + timedelta(days=10))
        return context.current_utc_datetime.isoformat()

    await world.begin("body")
    for _ in range(3):
        await world.advance(days=3)
    assert world.status() == "Running"
    await world.advance(days=1)
    assert world.output() == "2026-01-11T00:00:00+00:00"
    assert world.scheduled() == [(0, "timer"), (1, "timer"), (2, "timer")]


async def test_suspended_instances_wait(world: World) -> None:
    calls = []

    @world.runner.activity
    async def slow(value: str) -> str:
        calls.append(value)
        await gate.wait()
        return value

    gate = asyncio.Event()

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity("slow", "v")
        return [value, (yield context.wait_for_external_event("go"))]

    await world.engine.start_new("body", "i")
    await world.pump()
    await world.engine.suspend("i", "wait")
    await world.pump()
    with pytest.raises(OperationInvalid):
        await world.engine.suspend("i", "wait")
    gate.set()
    await world.raise_event("go", 1)
    assert world.status() == "Suspended"
    await world.kill()
    await world.start()
    await world.settle()
    assert world.status() == "Suspended"
    await world.engine.resume("i", "go on")
    if world.storage is None:  # the other engine changes the status with the next episode
        with pytest.raises(OperationInvalid):
            await world.engine.resume("i", "go on")
    await world.settle()
    assert world.output() == ["v", 1]
    # Its result had been kept, so the activity did not run again.
    assert calls == ["v"]


async def test_terminating_a_suspended_instance(world: World) -> None:
    child(world)
    await world.begin("child")
    await world.engine.suspend("i", "")
    await world.engine.terminate("i", "the end")
    await world.settle()
    assert (world.status(), world.output()) == ("Terminated", "the end")


async def test_ids_are_reused_only_when_finished(world: World) -> None:
    child(world)
    await world.begin("child", 1)
    with pytest.raises(InstanceExists):
        await world.engine.start_new("child", "i")
    await world.raise_event("go", "x")
    await world.begin("child", 2)
    assert world.status() == "Running"
    await world.raise_event("go", "y")
    assert world.output() == [None, 2, "y"]


@pytest.mark.parametrize("instance_id", ["@x", "a/b", "a\\b", "a#b", "a?b", "a\nb", "x" * 257])
async def test_bad_ids(world: World, instance_id: str) -> None:
    child(world)
    with pytest.raises(ArgumentInvalid):
        await world.engine.start_new("child", instance_id)


async def test_unknown_functions(world: World) -> None:
    @world.runner.activity
    def known(value: Any) -> None:
        pass

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.call_activity("nothing")

    with pytest.raises(ArgumentInvalid, match="'nobody' doesn't exist, is disabled, or is not an"):
        await world.engine.start_new("nobody")
    await world.begin("body")
    assert world.output() == (
        "Orchestrator function 'body' failed: The function 'nothing' doesn't exist, is disabled, "
        "or is not an activity function. Additional info: The following are the known activity "
        "functions: 'known'."
    )


async def test_what_the_local_host_does_not_do(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        yield context.call_http("GET", "http://localhost/")

    await world.begin("body")
    assert world.output() == (
        "Orchestrator function 'body' failed: call_http is not supported by the local host"
    )


async def test_rewind_of_a_first_turn(local_world: World) -> None:
    world = local_world
    broken = [True]

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        if broken:
            raise OSError("at once")
        yield context.wait_for_external_event("go")

    await world.begin("body")
    broken.clear()
    await world.kill()
    await world.start()
    await world.engine.rewind("i")
    await world.settle()
    assert world.status() == "Running"
    await world.raise_event("go")
    assert world.status() == "Completed"
