"""Tests of a durable engine's drain, which lets running activities end before the app reloads."""

import asyncio
from typing import Any

from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import EngineHost


def add_functions(host: EngineHost, gate: asyncio.Event) -> None:
    @host.runner.orchestrator
    def both(context: Any) -> Any:
        slow = context.call_activity("slow", 1)
        results = yield context.task_all([slow, context.call_activity("quick", 2)])
        return [*results, (yield context.call_activity("quick", 3))]

    @host.runner.activity
    async def slow(number: int) -> int:
        await gate.wait()
        return number

    @host.runner.activity
    def quick(number: int) -> int:
        return number


async def test_drain_waits_for_running_activities_only(
    host: EngineHost,
) -> None:
    gate = asyncio.Event()
    add_functions(host, gate)
    await host.engine.start_new("both", "i")
    await host.pump()
    drain = asyncio.create_task(host.engine.drain(30.0))
    await host.pump()
    assert not drain.done()
    gate.set()
    await drain
    assert host.runner.calls == [("slow", 1), ("quick", 2)]
    await host.stop()
    await host.start()
    await host.settle()
    assert host.output() == [1, 2, 3]
    assert host.runner.calls == [("slow", 1), ("quick", 2), ("quick", 3)]
    assert host.leftovers() == 0


async def test_activity_that_outlasts_the_drain_runs_again(
    host: EngineHost,
) -> None:
    gate = asyncio.Event()
    add_functions(host, gate)
    await host.engine.start_new("both", "i")
    await host.pump()
    await host.engine.drain(0.0)
    await host.stop()
    gate.set()
    await host.start()
    await host.settle()
    assert (host.status(), host.output()) == ("Completed", [1, 2, 3])
    assert host.runner.calls.count(("slow", 1)) == 2


async def test_queued_activity_waits_for_the_next_start(
    host: EngineHost,
) -> None:
    await host.stop()
    host.options = DurableOptions(max_activities=1)
    await host.start()
    gate = asyncio.Event()
    add_functions(host, gate)
    await host.engine.start_new("both", "i")
    await host.pump()
    drain = asyncio.create_task(host.engine.drain(30.0))
    await host.pump()
    gate.set()
    await drain
    assert host.runner.calls == [("slow", 1)]
    await host.stop()
    await host.start()
    await host.settle()
    assert host.output() == [1, 2, 3]
    assert host.runner.calls == [("slow", 1), ("quick", 2), ("quick", 3)]
