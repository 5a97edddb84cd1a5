"""Tests that an instance stays Running until all its scheduled tasks have ended.

Each case was observed on the Durable extension 3.19.0 with the Python SDK.
"""

import asyncio
import contextlib
import json
import sqlite3
from datetime import timedelta
from typing import Any

from azure.durable_functions import RetryOptions

from functions_tests.durable.durable_host import EngineHost, child


async def test_unfinished_activity_keeps_it_running(
    host: EngineHost,
) -> None:
    gate = asyncio.Event()

    @host.runner.activity
    async def work(name: str) -> str:
        if name == "slow":
            await gate.wait()
        return name

    @host.runner.orchestrator
    def race(context: Any) -> Any:
        tasks = [context.call_activity("work", name) for name in ("fast", "slow")]
        return (yield context.task_any(tasks)).result

    await host.engine.start_new("race", "i")
    await host.pump()
    assert (host.status(), host.output()) == ("Running", None)
    gate.set()
    await host.settle()
    assert (host.status(), host.output()) == ("Completed", "fast")


async def test_timers_keep_it_running_until_fired_or_cancelled(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def race(context: Any) -> Any:
        timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        event = context.wait_for_external_event("go")
        winner = yield context.task_any([timer, event])
        if context.get_input() == "cancel":
            timer.cancel()
        return "event" if winner is event else "timer"

    await host.begin("race", "cancel", "cancelled")
    await host.begin("race", "keep", "kept")
    for instance_id in ("cancelled", "kept"):
        await host.raise_event("go", None, instance_id)
    assert host.output("cancelled") == "event"
    assert (host.status("kept"), host.output("kept")) == ("Running", None)
    await host.advance(seconds=5)
    assert (host.status("kept"), host.output("kept")) == ("Completed", "event")
    assert host.leftovers() == 0


async def test_missing_event_does_not_keep_it_running(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def race(context: Any) -> Any:
        waiting = [context.wait_for_external_event(name) for name in ("go", "never")]
        return (yield context.task_any(waiting)).result

    await host.begin("race")
    await host.raise_event("go", 1)
    assert (host.status(), host.output()) == ("Completed", 1)


async def test_failure_waits_for_all_other_tasks(
    host: EngineHost,
) -> None:
    gate = asyncio.Event()

    @host.runner.activity
    async def work(name: str) -> str:
        if name == "fails":
            raise ValueError("bad thing")
        await gate.wait()
        return name

    @host.runner.orchestrator
    def race(context: Any) -> Any:
        yield context.task_all([context.call_activity("work", name) for name in ("fails", "slow")])

    await host.engine.start_new("race", "i")
    await host.pump()
    assert host.status() == "Running"
    gate.set()
    await host.settle()
    assert host.status() == "Failed"
    assert "bad thing" in host.output()


async def test_retries_keep_it_running(
    host: EngineHost,
) -> None:
    @host.runner.activity
    def fail(_: Any) -> None:
        raise ValueError("no")

    @host.runner.orchestrator
    def race(context: Any) -> Any:
        retried = context.call_activity_with_retry("fail", RetryOptions(1000, 3), None)
        event = context.wait_for_external_event("go")
        winner = yield context.task_any([retried, event])
        return "event" if winner is event else "activity"

    await host.begin("race")
    await host.raise_event("go")
    assert host.status() == "Running"
    for _ in range(4):
        await host.advance(seconds=1)
    assert (host.status(), host.output()) == ("Completed", "event")
    assert len(host.runner.calls) == 3


async def test_child_keeps_it_running(
    host: EngineHost,
) -> None:
    child(host)

    @host.runner.orchestrator
    def race(context: Any) -> Any:
        started = context.call_sub_orchestrator("child", None, "c")
        event = context.wait_for_external_event("go")
        yield context.task_any([started, event])
        return "done"

    await host.begin("race")
    await host.raise_event("go")
    assert host.status() == "Running"
    await host.raise_event("go", 1, "c")
    assert (host.status(), host.output()) == ("Completed", "done")


async def test_timer_keeps_it_running_after_a_restart(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def race(context: Any) -> Any:
        timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        yield context.task_any([timer, context.wait_for_external_event("go")])
        return "done"

    await host.begin("race")
    await host.raise_event("go")
    await host.kill()
    await host.start()
    await host.settle()
    assert host.status() == "Running"
    await host.advance(seconds=5)
    assert (host.status(), host.output()) == ("Completed", "done")


async def test_instance_that_waits_for_a_timer_is_terminated(
    host: EngineHost,
) -> None:
    @host.runner.orchestrator
    def race(context: Any) -> Any:
        timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        yield context.task_any([timer, context.wait_for_external_event("go")])
        return "done"

    await host.begin("race")
    await host.raise_event("go")
    await host.engine.terminate("i", "no more")
    await host.settle()
    assert (host.status(), host.output()) == ("Terminated", "no more")


async def test_rewind_repeats_only_the_failed_activity(
    local_host: EngineHost,
) -> None:
    host = local_host
    gate = asyncio.Event()
    is_broken = True

    @host.runner.activity
    async def work(name: str) -> str:
        if name == "fails" and is_broken:
            raise ValueError("bad thing")
        await gate.wait()
        return name

    @host.runner.orchestrator
    def both(context: Any) -> Any:
        return (
            yield context.task_all([context.call_activity("work", n) for n in ("fails", "slow")])
        )

    await host.engine.start_new("both", "i")
    await host.pump()
    gate.set()
    await host.settle()
    assert host.status() == "Failed"
    is_broken = False
    await host.engine.rewind("i")
    await host.settle()
    assert (host.status(), host.output()) == ("Completed", ["fails", "slow"])
    assert [argument for _, argument in host.runner.calls] == ["fails", "slow", "fails"]


async def test_instance_of_an_older_host_completes(
    local_host: EngineHost,
) -> None:
    host = local_host

    @host.runner.activity
    def echo(value: Any) -> Any:
        return value

    @host.runner.orchestrator
    def old(context: Any) -> Any:
        event = context.wait_for_external_event("go")
        timer = context.create_timer(context.current_utc_datetime + timedelta(seconds=5))
        yield context.task_any([event, timer])
        timer.cancel()
        return (yield context.call_activity("echo", event.result))

    await host.begin("old")
    await host.stop()
    # An older version counted the actions that wait for events, too, and stored four fields.
    with contextlib.closing(sqlite3.connect(host.database)) as connection, connection:
        (stored,) = connection.execute("SELECT shim FROM instances").fetchone()
        assert json.loads(stored)[:4] == [1, 1, [[0, 0]], []]
        connection.execute("UPDATE instances SET shim='[2,1,[[0,1]],[]]'")
    await host.start()
    await host.raise_event("go", "x")
    assert (host.status(), host.output()) == ("Completed", "x")
    assert host.scheduled() == [(0, "timer"), (1, "echo")]
    assert host.leftovers() == 0
