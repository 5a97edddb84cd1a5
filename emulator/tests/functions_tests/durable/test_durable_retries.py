"""Retries: the engine's task ids must be those which the SDK counts by itself."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from azure.durable_functions import RetryOptions

from functions_tests.durable.durable_host import World


def flaky(world: World, failures: int) -> None:
    """An activity which fails so many times for each argument."""
    left: dict[str, int] = {}

    @world.runner.activity
    def flaky(name: str) -> str:
        left.setdefault(name, failures)
        if left[name]:
            left[name] -= 1
            raise OSError(f"{name} is down")
        return f"{name} is up"


async def test_a_later_attempt_succeeds(world: World) -> None:
    flaky(world, 2)

    @world.runner.activity
    def after(value: str) -> str:
        return value + "!"

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity_with_retry("flaky", RetryOptions(5000, 3), "a")
        return (yield context.call_activity("after", value))

    await world.begin("body")
    assert len(world.runner.calls) == 1
    await world.advance(seconds=4.999)
    assert len(world.runner.calls) == 1
    await world.advance(seconds=0.001)
    assert len(world.runner.calls) == 2
    await world.advance(seconds=5)
    assert world.output() == "a is up!"
    assert world.scheduled() == [
        (0, "flaky"),
        (1, "timer"),
        (2, "flaky"),
        (3, "timer"),
        (4, "flaky"),
        (5, "after"),
    ]


async def test_the_last_failure_waits_for_one_more_timer(world: World) -> None:
    flaky(world, 9)

    @world.runner.activity
    def mourn(text: str) -> str:
        return "mourned"

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        try:
            yield context.call_activity_with_retry("flaky", RetryOptions(1000, 2), "a")
        except Exception as error:  # noqa: BLE001 - what the SDK raises
            mourned = yield context.call_activity("mourn", "x")
            return [str(error), mourned]

    await world.begin("body")
    await world.advance(seconds=1)
    assert world.status() == "Running"
    await world.advance(seconds=1)
    cause = "OSError: a is down"
    assert world.output() == [f"Activity function 'flaky' failed:  {cause} \n {cause}", "mourned"]
    assert [task for task, _ in world.scheduled()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
async def test_retries_side_by_side(world: World, failures: int) -> None:
    """Failures that come together must not be numbered in another order than the SDK's."""
    flaky(world, failures)

    @world.runner.activity
    def plain(value: int) -> int:
        return value

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        options = RetryOptions(1000, 4)
        tasks = [context.call_activity_with_retry("flaky", options, name) for name in "abc"]
        tasks.insert(1, context.call_activity("plain", 7))
        values = yield context.task_all(tasks)
        last = yield context.call_activity("plain", 8)
        return [*values, last]

    await world.begin("body")
    for _ in range(4):
        await world.advance(seconds=1)
    assert world.output() == ["a is up", 7, "b is up", "c is up", 8]


async def test_race_of_retry_timer_and_event(world: World) -> None:
    flaky(world, 2)

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        slow = context.call_activity_with_retry("flaky", RetryOptions(60_000, 5), "a")
        limit = context.create_timer(context.current_utc_datetime + timedelta(seconds=90))
        stop = context.wait_for_external_event("stop")
        first = yield context.task_any([slow, limit, stop])
        if first is limit:
            other = yield context.task_any([slow, context.wait_for_external_event("more")])
            return ["limit", other.result]
        return first.result

    await world.begin("body")
    await world.advance(seconds=60)
    await world.advance(seconds=30)
    await world.advance(seconds=30)
    assert world.output() == ["limit", "a is up"]
    assert [task for task, _ in world.scheduled()] == [0, 1, 2, 3, 4, 5]


async def test_retry_survives_restarts(world: World) -> None:
    flaky(world, 2)

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        return (yield context.call_activity_with_retry("flaky", RetryOptions(1000, 3), "a"))

    await world.begin("body")
    for _ in range(2):
        await world.kill()
        await world.start()
        await world.advance(seconds=1)
    assert world.output() == "a is up"


@pytest.mark.parametrize("fixed", [None, "the-child"])
async def test_sub_orchestration_with_retry(world: World, fixed: str | None) -> None:
    flaky(world, 2)

    @world.runner.orchestrator
    def child(context: Any) -> Any:
        return (yield context.call_activity("flaky", context.get_input()))

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        options = RetryOptions(1000, 3)
        task = context.call_sub_orchestrator_with_retry("child", options, "a", fixed)
        return (yield task)

    await world.begin("body")
    await world.advance(seconds=1)
    await world.advance(seconds=1)
    assert world.output() == "a is up"
    assert [task for task, _ in world.scheduled()] == [0, 1, 2, 3, 4]


async def test_rewind_of_an_exhausted_retry(local_world: World) -> None:
    world = local_world
    flaky(world, 2)

    @world.runner.activity
    def after(value: str) -> str:
        return value + "!"

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        value = yield context.call_activity_with_retry("flaky", RetryOptions(1000, 2), "a")
        return (yield context.call_activity("after", value))

    await world.begin("body")
    await world.advance(seconds=1)
    await world.advance(seconds=1)
    assert world.status() == "Failed"
    await world.engine.rewind("i")
    await world.settle()
    assert world.output() == "a is up!"


async def test_failure_behind_an_event_in_the_same_mailbox(world: World) -> None:
    """The event makes the SDK number an activity before the failure makes it number a timer."""
    gate = asyncio.Event()

    @world.runner.activity
    async def flaky(value: int) -> int:
        if not gate.is_set():
            await gate.wait()
            raise OSError
        return value

    @world.runner.activity
    def plain(value: int) -> int:
        return value

    @world.runner.orchestrator
    def body(context: Any) -> Any:
        slow = context.call_activity_with_retry("flaky", RetryOptions(1000, 3), 1)
        yield context.task_any([slow, context.wait_for_external_event("go")])
        quick = yield context.call_activity("plain", 2)
        return [quick, (yield slow)]

    await world.engine.start_new("body", "i")
    await world.pump()
    assert world.runner.calls == [("flaky", 1)]
    await world.engine.suspend("i", "")
    await world.engine.raise_event("i", "go", "0")
    gate.set()
    await world.settle()
    await world.engine.resume("i", "")
    await world.settle()
    await world.advance(seconds=1)
    assert world.output() == [2, 1]
    assert world.scheduled() == [(0, "flaky"), (1, "plain"), (2, "timer"), (3, "flaky")]
