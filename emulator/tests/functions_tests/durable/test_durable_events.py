"""External events: early, late, twice, and in the wrong case."""

import json
from datetime import timedelta
from typing import Any

import pytest

from emulator.functions.durable.errors import InstanceFinished, InstanceMissing
from functions_tests.durable.durable_host import World


def waiter(world: World) -> None:
    @world.runner.activity
    def pause(value: Any) -> Any:
        return value

    @world.runner.orchestrator
    def waiter(context: Any) -> Any:
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        value = yield context.wait_for_external_event("reply")
        return value


async def test_early_event_is_kept(world: World) -> None:
    waiter(world)
    await world.begin("waiter")
    await world.raise_event("reply", {"n": 1})
    assert world.status() == "Running"
    await world.kill()
    await world.start()
    await world.advance(seconds=5)
    assert world.output() == {"n": 1}


async def test_late_and_repeated_events(world: World) -> None:
    waiter(world)
    await world.begin("waiter")
    await world.advance(seconds=5)
    await world.engine.raise_event("i", "reply", "1")
    await world.engine.raise_event("i", "reply", "2")
    await world.settle()
    assert world.output() == 1
    with pytest.raises(InstanceFinished):
        await world.engine.raise_event("i", "reply", "3")
    with pytest.raises(InstanceMissing):
        await world.engine.raise_event("nobody", "reply", "3")
    assert world.leftovers() == 0


async def test_the_sdk_matches_names_exactly(world: World) -> None:
    """.NET would take either case; the Python SDK does not, so an orchestration hangs here too."""
    waiter(world)
    await world.begin("waiter")
    await world.advance(seconds=5)
    await world.raise_event("Reply", 1)
    assert world.status() == "Running"
    assert json.loads(f"[{world.fragments()[-1]}]")[1]["Name"] == "Reply"
    await world.raise_event("reply", 2)
    assert world.output() == 2


async def test_the_same_tasks_over_several_waits(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        names = {name: context.wait_for_external_event(name) for name in ("started", "reply")}
        limit = context.create_timer(context.current_utc_datetime + timedelta(seconds=60))
        tasks = [*names.values(), limit]
        first = yield context.task_any(tasks)
        assert first is names["started"]
        tasks.remove(first)
        second = yield context.task_any(tasks)
        limit.cancel()
        return [first.result, second.result]

    await world.begin("body")
    await world.raise_event("started", "s")
    await world.raise_event("reply", "r")
    assert world.output() == ["s", "r"]
    if world.storage is None:  # a timer's message cannot be taken back from a queue
        assert len(world.local.timers) == 0
        assert world.leftovers() == 0
    await world.advance(seconds=60)
    assert world.leftovers() == 0


async def test_events_and_results_in_one_turn(world: World) -> None:
    @world.runner.orchestrator
    def body(context: Any) -> Any:
        got = []
        for name in "abc":
            got.append((yield context.wait_for_external_event(name)))  # noqa: PERF401
        return got

    await world.begin("body")
    for name in "cab":
        await world.engine.raise_event("i", name, json.dumps(name.upper()))
    await world.settle()
    assert world.output() == ["A", "B", "C"]
