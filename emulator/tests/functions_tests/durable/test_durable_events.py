"""Tests of external events: early, late and repeated events, and upper-case event names."""

import json
from datetime import timedelta
from typing import Any

import pytest

from emulator.functions.durable.errors import InstanceFinished, InstanceMissing
from functions_tests.durable.durable_host import EngineHost


def waiter(host: EngineHost) -> None:
    @host.runner.activity
    def pause(value: Any) -> Any:
        return value

    @host.runner.orchestrator
    def waiter(context: Any) -> Any:
        yield context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        value = yield context.wait_for_external_event("reply")
        return value


async def test_early_event_is_not_lost(
    host: EngineHost,
) -> None:
    waiter(host)
    await host.begin("waiter")
    await host.raise_event("reply", {"n": 1})
    assert host.status() == "Running"
    await host.kill()
    await host.start()
    await host.advance(seconds=5)
    assert host.output() == {"n": 1}


async def test_repeated_event_is_ignored(
    host: EngineHost,
) -> None:
    waiter(host)
    await host.begin("waiter")
    await host.advance(seconds=5)
    await host.engine.raise_event("i", "reply", "1")
    await host.engine.raise_event("i", "reply", "2")
    await host.settle()
    assert host.output() == 1
    with pytest.raises(InstanceFinished):
        await host.engine.raise_event("i", "reply", "3")
    with pytest.raises(InstanceMissing):
        await host.engine.raise_event("nobody", "reply", "3")
    assert host.leftovers() == 0


async def test_event_names_are_case_sensitive(host: EngineHost) -> None:
    """In event names, the Python SDK distinguishes upper and lower case. .NET does not."""
    waiter(host)
    await host.begin("waiter")
    await host.advance(seconds=5)
    await host.raise_event("Reply", 1)
    assert host.status() == "Running"
    assert json.loads(f"[{host.fragments()[-1]}]")[1]["Name"] == "Reply"
    await host.raise_event("reply", 2)
    assert host.output() == 2


async def test_pending_task_completes_in_a_second_task_any(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
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

    await host.begin("body")
    await host.raise_event("started", "s")
    await host.raise_event("reply", "r")
    assert host.output() == ["s", "r"]
    if (
        host.storage is None
    ):  # a queue keeps the message of a cancelled timer until the timer is due
        assert len(host.local_engine.timers) == 0
        assert host.leftovers() == 0
    await host.advance(seconds=60)
    assert host.leftovers() == 0


async def test_events_are_awaited_in_any_order(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def body(context: Any) -> Any:
        got = []
        for name in "abc":
            got.append((yield context.wait_for_external_event(name)))  # noqa: PERF401
        return got

    await host.begin("body")
    for name in "cab":
        await host.engine.raise_event("i", name, json.dumps(name.upper()))
    await host.settle()
    assert host.output() == ["A", "B", "C"]
