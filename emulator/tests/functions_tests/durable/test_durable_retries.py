"""Test that the engine gives the tasks of a retried activity the same ids as the SDK."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from azure.durable_functions import RetryOptions

from functions_tests.durable.durable_host import EngineHost


def flaky(host: EngineHost, failures: int) -> None:
    """Register an activity that, for each argument, fails `failures` times and then succeeds."""
    left: dict[str, int] = {}

    @host.runner.activity
    def flaky(name: str) -> str:
        left.setdefault(name, failures)
        if left[name]:
            left[name] -= 1
            raise OSError(f"{name} is down")
        return f"{name} is up"


async def test_later_attempt_completes_the_task(
    host: EngineHost,
) -> None:
    flaky(host, 2)

    @host.runner.activity
    def after(value: str) -> str:
        return value + "!"

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity_with_retry("flaky", RetryOptions(5000, 3), "a")
        return (yield context.call_activity("after", value))

    await host.begin("body")
    assert len(host.runner.calls) == 1
    await host.advance(seconds=4.999)
    assert len(host.runner.calls) == 1
    await host.advance(seconds=0.001)
    assert len(host.runner.calls) == 2
    await host.advance(seconds=5)
    assert host.output() == "a is up!"
    assert host.scheduled() == [
        (0, "flaky"),
        (1, "timer"),
        (2, "flaky"),
        (3, "timer"),
        (4, "flaky"),
        (5, "after"),
    ]


async def test_last_attempt_fails_one_interval_later(
    host: EngineHost,
) -> None:
    flaky(host, 9)

    @host.runner.activity
    def mourn(text: str) -> str:
        return "mourned"

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        try:
            yield context.call_activity_with_retry("flaky", RetryOptions(1000, 2), "a")
        except Exception as error:  # noqa: BLE001 - the SDK raises Exception
            mourned = yield context.call_activity("mourn", "x")
            return [str(error), mourned]

    await host.begin("body")
    await host.advance(seconds=1)
    assert host.status() == "Running"
    await host.advance(seconds=1)
    text, mourned = host.output()
    reason, _, details = text.partition(" \n ")
    assert (reason, mourned) == ("Activity function 'flaky' failed: OSError: a is down", "mourned")
    exception = json.loads(details)
    assert exception["ClassName"] == "System.Exception"
    assert exception["Message"] == "OSError: a is down"
    assert exception["InnerException"]["Message"].startswith(
        "Result: Failure\nException: OSError: a is down\nStack: "
    )
    assert [task for task, _ in host.scheduled()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_concurrent_retries_have_the_sdks_task_ids(host: EngineHost, failures: int) -> None:
    """After several failures, the engine assigns task ids in the same order as the SDK."""
    flaky(host, failures)

    @host.runner.activity
    def plain(value: int) -> int:
        return value

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        options = RetryOptions(1000, 4)
        tasks = [context.call_activity_with_retry("flaky", options, name) for name in "abc"]
        tasks.insert(1, context.call_activity("plain", 7))
        values = yield context.task_all(tasks)
        last = yield context.call_activity("plain", 8)
        return [*values, last]

    await host.begin("body")
    for _ in range(4):
        await host.advance(seconds=1)
    assert host.output() == ["a is up", 7, "b is up", "c is up", 8]


async def test_timer_before_a_retry_keeps_the_sdks_task_ids(
    host: EngineHost,
) -> None:
    flaky(host, 2)

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        slow = context.call_activity_with_retry("flaky", RetryOptions(60_000, 5), "a")
        limit = context.create_timer(context.current_utc_datetime + timedelta(seconds=90))
        stop = context.wait_for_external_event("stop")
        first = yield context.task_any([slow, limit, stop])
        if first is limit:
            other = yield context.task_any([slow, context.wait_for_external_event("more")])
            return ["limit", other.result]
        return first.result

    await host.begin("body")
    await host.advance(seconds=60)
    await host.advance(seconds=30)
    await host.advance(seconds=30)
    assert host.output() == ["limit", "a is up"]
    assert [task for task, _ in host.scheduled()] == [0, 1, 2, 3, 4, 5]


async def test_restart_keeps_the_retries(host: EngineHost) -> None:
    flaky(host, 2)

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity_with_retry("flaky", RetryOptions(1000, 3), "a"))

    await host.begin("body")
    for _ in range(2):
        await host.kill()
        await host.start()
        await host.advance(seconds=1)
    assert host.output() == "a is up"


@pytest.mark.parametrize("fixed", [None, "the-child"])
async def test_failed_child_is_retried(host: EngineHost, fixed: str | None) -> None:
    flaky(host, 2)

    @host.runner.orchestrator
    def child(context: Any) -> Any:
        return (yield context.call_activity("flaky", context.get_input()))

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        options = RetryOptions(1000, 3)
        task = context.call_sub_orchestrator_with_retry("child", options, "a", fixed)
        return (yield task)

    await host.begin("body")
    await host.advance(seconds=1)
    await host.advance(seconds=1)
    assert host.output() == "a is up"
    assert [task for task, _ in host.scheduled()] == [0, 1, 2, 3, 4]


async def test_rewind_repeats_the_last_attempt(
    local_host: EngineHost,
) -> None:
    host = local_host
    flaky(host, 2)

    @host.runner.activity
    def after(value: str) -> str:
        return value + "!"

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity_with_retry("flaky", RetryOptions(1000, 2), "a")
        return (yield context.call_activity("after", value))

    await host.begin("body")
    await host.advance(seconds=1)
    await host.advance(seconds=1)
    assert host.status() == "Failed"
    await host.engine.rewind("i")
    await host.settle()
    assert host.output() == "a is up!"


async def test_event_with_a_failure_keeps_the_sdks_task_ids(
    host: EngineHost,
) -> None:
    """Check the task ids if one episode processes an event and a failure of an activity.

    The event lets the orchestrator call another activity, and the failure starts the timer of a
    retry. The SDK gives the next task id to the activity, and the id after that to the timer.
    """
    gate = asyncio.Event()

    @host.runner.activity
    async def flaky(value: int) -> int:
        if not gate.is_set():
            await gate.wait()
            raise OSError
        return value

    @host.runner.activity
    def plain(value: int) -> int:
        return value

    @host.runner.orchestrator
    def body(context: Any) -> Any:
        slow = context.call_activity_with_retry("flaky", RetryOptions(1000, 3), 1)
        yield context.task_any([slow, context.wait_for_external_event("go")])
        quick = yield context.call_activity("plain", 2)
        return [quick, (yield slow)]

    await host.engine.start_new("body", "i")
    await host.pump()
    assert host.runner.calls == [("flaky", 1)]
    await host.engine.suspend("i", "")
    await host.engine.raise_event("i", "go", "0")
    gate.set()
    await host.settle()
    await host.engine.resume("i", "")
    await host.settle()
    await host.advance(seconds=1)
    assert host.output() == [2, 1]
    assert host.scheduled() == [(0, "flaky"), (1, "plain"), (2, "timer"), (3, "flaky")]
