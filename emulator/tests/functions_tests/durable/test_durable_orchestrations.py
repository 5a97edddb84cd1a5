"""Test whole orchestrations with the SDK's own executor, which replays their histories."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.durable_functions import RetryOptions

from emulator.functions.durable.errors import InstanceMissing
from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import EngineHost, make_host


async def test_chained_activities_run_one_after_another(host: EngineHost) -> None:
    @host.runner.activity
    def add(pair: list[int]) -> int:
        return sum(pair)

    @host.runner.orchestrator
    def chain(context: Any) -> Any:
        first = yield context.call_activity("add", [context.get_input(), 1])
        second = yield context.call_activity("add", [first, 10])
        return {"sum": second}

    await host.begin("chain", 100)
    assert host.status() == "Completed"
    assert host.output() == {"sum": 111}
    assert host.runner.calls == [("add", [100, 1]), ("add", [101, 10])]
    assert host.scheduled() == [(0, "add"), (1, "add")]


async def test_reply_or_deadline_ends_the_orchestration(
    host: EngineHost,
) -> None:
    """The orchestrator of this test has the same steps as the gateway's orchestrator of a job."""

    @host.runner.activity
    def enqueue(job: str) -> None:
        pass

    @host.runner.orchestrator
    def job(context: Any) -> Any:
        yield context.call_activity_with_retry("enqueue", RetryOptions(100, 3), "job")
        reply = context.wait_for_external_event("reply")
        cancel = context.wait_for_external_event("cancel")
        deadline = context.create_timer(context.current_utc_datetime + timedelta(seconds=300))
        first = yield context.task_any([reply, cancel, deadline])
        if first is not deadline:
            deadline.cancel()
        return "expired" if first is deadline else first.result

    await host.begin("job", "x", "a")
    await host.begin("job", "x", "b")
    assert host.status("a") == host.status("b") == "Running"
    await host.raise_event("reply", {"ok": True}, "a")
    assert host.output("a") == {"ok": True}
    if host.storage is None:
        assert len(host.local_engine.timers) == 1
    await host.advance(seconds=299)
    assert host.status("b") == "Running"
    await host.advance(seconds=1)
    assert host.output("b") == "expired"
    assert host.scheduled("a") == [(0, "enqueue"), (1, "timer")]


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
async def test_max_activities_limits_concurrency(tmp_path: Path, engine: str) -> None:
    host = make_host(tmp_path, engine)
    host.options = DurableOptions(max_activities=2)
    running, peaks = 0, []

    @host.runner.activity
    async def work(_: int) -> None:
        nonlocal running
        running += 1
        peaks.append(running)
        await asyncio.sleep(0)
        running -= 1

    @host.runner.orchestrator
    def fan_out(context: Any) -> Any:
        yield context.task_all([context.call_activity("work", number) for number in range(5)])

    await host.start()
    await host.begin("fan_out")
    assert host.status() == "Completed"
    assert (len(peaks), max(peaks)) == (5, 2)
    await host.stop()


async def test_purged_instance_does_not_exist(host: EngineHost) -> None:
    @host.runner.orchestrator
    def wait(context: Any) -> Any:
        yield context.wait_for_external_event("never")

    instance = await host.begin("wait")
    await host.engine.terminate("i", "no more")
    await host.settle()
    assert host.status() == "Terminated"
    assert host.output() == "no more"
    assert await host.engine.purge([instance]) == 1
    with pytest.raises(InstanceMissing):
        host.engine.find("i")
