"""Orchestrations from start to end, the SDK's executor being the judge of every history."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.durable_functions import RetryOptions

from emulator.functions.durable.errors import InstanceMissing
from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import World, make_world


async def test_chain(world: World) -> None:
    @world.runner.activity
    def add(pair: list[int]) -> int:
        return sum(pair)

    @world.runner.orchestrator
    def chain(context: Any) -> Any:
        first = yield context.call_activity("add", [context.get_input(), 1])
        second = yield context.call_activity("add", [first, 10])
        return {"sum": second}

    await world.begin("chain", 100)
    assert world.status() == "Completed"
    assert world.output() == {"sum": 111}
    assert world.runner.calls == [("add", [100, 1]), ("add", [101, 10])]
    assert world.scheduled() == [(0, "add"), (1, "add")]


async def test_job_of_the_gateway(world: World) -> None:
    """An activity with retries, then the first of a reply, a cancellation and a deadline."""

    @world.runner.activity
    def enqueue(job: str) -> None:
        pass

    @world.runner.orchestrator
    def job(context: Any) -> Any:
        yield context.call_activity_with_retry("enqueue", RetryOptions(100, 3), "job")
        reply = context.wait_for_external_event("reply")
        cancel = context.wait_for_external_event("cancel")
        deadline = context.create_timer(context.current_utc_datetime + timedelta(seconds=300))
        first = yield context.task_any([reply, cancel, deadline])
        if first is not deadline:
            deadline.cancel()
        return "expired" if first is deadline else first.result

    await world.begin("job", "x", "a")
    await world.begin("job", "x", "b")
    assert world.status("a") == world.status("b") == "Running"
    await world.raise_event("reply", {"ok": True}, "a")
    assert world.output("a") == {"ok": True}
    if world.storage is None:
        assert len(world.local.timers) == 1
    await world.advance(seconds=299)
    assert world.status("b") == "Running"
    await world.advance(seconds=1)
    assert world.output("b") == "expired"
    assert world.scheduled("a") == [(0, "enqueue"), (1, "timer")]


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
async def test_no_more_activities_run_at_once_than_the_host_file_allows(
    tmp_path: Path, engine: str
) -> None:
    world = make_world(tmp_path, engine)
    world.options = DurableOptions(max_activities=2)
    running, peaks = 0, []

    @world.runner.activity
    async def work(_: int) -> None:
        nonlocal running
        running += 1
        peaks.append(running)
        await asyncio.sleep(0)
        running -= 1

    @world.runner.orchestrator
    def fan_out(context: Any) -> Any:
        yield context.task_all([context.call_activity("work", number) for number in range(5)])

    await world.start()
    await world.begin("fan_out")
    assert world.status() == "Completed"
    assert (len(peaks), max(peaks)) == (5, 2)
    await world.stop()


async def test_terminate_and_purge(world: World) -> None:
    @world.runner.orchestrator
    def wait(context: Any) -> Any:
        yield context.wait_for_external_event("never")

    instance = await world.begin("wait")
    await world.engine.terminate("i", "no more")
    await world.settle()
    assert world.status() == "Terminated"
    assert world.output() == "no more"
    assert await world.engine.purge([instance]) == 1
    with pytest.raises(InstanceMissing):
        world.engine.find("i")
