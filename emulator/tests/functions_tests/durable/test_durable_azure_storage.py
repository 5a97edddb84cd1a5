"""Test the azure-storage engine, which imitates the Azure Storage backend of Durable Functions.

The tests cover lost events, repeated activities, crashes, and hosts that share one task hub.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from emulator.functions.durable.azure_storage.database import RemoteDatabase
from emulator.functions.durable.azure_storage.engine import AzureStorageEngine
from emulator.functions.durable.azure_storage.options import (
    AzureStorageOptions,
    CrashPoint,
    FaultOptions,
    check_crash_point,
)
from emulator.functions.durable.azure_storage.queues import PARTITION_COUNT, find_partition
from emulator.functions.durable.errors import DatabaseForeign, InstanceNotFailed, OperationInvalid
from functions_tests.durable.durable_host import EngineHost, SdkRunner, child
from manual_clock import ManualClock

TIMEOUT_SECONDS = 60.0
StartHost = Callable[..., Awaitable[EngineHost]]


def job(host: EngineHost) -> None:
    """Register an orchestration that runs an activity and then waits for an external event."""

    @host.runner.activity
    def enqueue(value: str) -> str:
        return value

    @host.runner.orchestrator
    def job(context: Any) -> Any:
        sent = yield context.call_activity("enqueue", context.instance_id)
        return [sent, (yield context.wait_for_external_event("reply"))]


@pytest.fixture
async def start_host(tmp_path: Path) -> AsyncIterator[StartHost]:
    """Yield a function that starts hosts. All hosts share one task hub, one clock and one app."""
    hosts: list[EngineHost] = []
    clock, runner = ManualClock(), SdkRunner()

    async def start(*, delay_seconds: float = 0.0, **faults: Any) -> EngineHost:
        storage = AzureStorageOptions(
            tmp_path / "task-hub.db", TIMEOUT_SECONDS, FaultOptions(**faults), delay_seconds
        )
        host = EngineHost(tmp_path, runner, clock, storage=storage)
        hosts.append(host)
        job(host)
        await host.start()
        await host.settle()
        return host

    yield start
    for host in hosts:
        await host.stop()


async def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` returns a true value. Raises TimeoutError."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions over several hosts
            await asyncio.sleep(0.001)


class BlockedOrchestrator:
    """Emulates a slow app process: the first run of an orchestrator waits until `opened` is set."""

    def __init__(self, runner: SdkRunner) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()
        self._orchestrate = runner.run_orchestrator
        runner.run_orchestrator = self._hold  # type: ignore[method-assign] # the app is slow

    async def _hold(self, name: str, context_json: str) -> str:
        if not self.entered.is_set():
            self.entered.set()
            await self.opened.wait()
        return await self._orchestrate(name, context_json)


# Events and the first save


async def test_event_before_the_first_save_is_discarded(
    start_host: StartHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = await start_host()
    gate = BlockedOrchestrator(host.runner)
    await host.engine.start_new("job", "i")
    await gate.entered.wait()
    await host.engine.raise_event("i", "reply", "1")
    await until(lambda: "No such instance" in caplog.text)
    gate.opened.set()
    await host.settle()
    assert "i: Discarding 1 dequeued history event(s): No such instance" in caplog.messages
    assert (host.status(), host.leftovers()) == ("Running", 0)
    await host.raise_event("reply", 2)
    assert host.output() == ["i", 2]


async def test_event_with_the_start_message_is_received(
    start_host: StartHost,
) -> None:
    host = await start_host()
    host.runner.down = (
        True  # the host dequeues the start message, but the first episode waits for the app
    )
    await host.begin("job")
    await host.raise_event("reply", 1)
    host.runner.down = False
    await host.advance(seconds=1)
    assert host.output() == ["i", 1]


async def test_event_in_the_second_episode_waits_for_the_next(
    start_host: StartHost,
) -> None:
    host = await start_host()
    host.runner.activity_bodies["enqueue"] = lambda _: "sent"
    child(host)
    await host.begin("child")
    gate = BlockedOrchestrator(host.runner)
    await host.engine.raise_event("i", "other", "0")
    await gate.entered.wait()
    await host.engine.raise_event("i", "go", "1")
    gate.opened.set()
    await host.settle()
    assert host.output() == [None, None, 1]


async def test_event_in_the_last_episode_is_discarded(
    start_host: StartHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    host = await start_host()
    await host.begin("job")
    await host.engine.raise_event("i", "reply", "1")
    gate = BlockedOrchestrator(host.runner)
    await gate.entered.wait()
    await host.engine.raise_event("i", "reply", "2")
    gate.opened.set()
    await host.settle()
    assert host.output() == ["i", 1]
    assert "i: Discarding 1 dequeued history event(s): Instance is Completed" in caplog.messages


# Crashes


async def test_activity_runs_twice_if_the_host_dies_early(
    start_host: StartHost, caplog: pytest.LogCaptureFixture
) -> None:
    """The first host dies after it has queued the activity and before it saves the history.

    The second host runs the queued activity. It discards the event `reply`, because the instance
    has no history yet. When the message that starts the instance is visible again, the second host
    repeats the episode, and the activity runs again.
    """
    host = await start_host(crash_at=("before-save:job",))
    await host.engine.start_new("job", "i")
    await until(lambda: host.is_dead)
    other = await start_host()
    # The lease has expired, but the messages are still invisible.
    host.clock.moment += timedelta(seconds=31)
    other.azure_storage_engine.clock_moved()
    await other.settle()
    assert other.runner.calls == [("enqueue", "i")]
    assert other.status() == "Pending"
    await other.raise_event("reply", 1)
    assert "i: Discarding 1 dequeued history event(s): No such instance" in caplog.messages
    for _ in range(2):
        await other.advance(seconds=TIMEOUT_SECONDS)
    assert other.runner.calls == [("enqueue", "i"), ("enqueue", "i")]
    assert other.status() == "Running"
    await other.raise_event("reply", 2)
    assert other.output() == ["i", 2]
    assert other.leftovers() == 0


async def test_repeated_episode_uses_the_same_task_ids(
    start_host: StartHost,
) -> None:
    """The activity runs twice. Both results arrive, and the second result is ignored."""
    host = await start_host(crash_at=("before-save",))
    await host.engine.start_new("job", "i")
    await until(lambda: host.is_dead)
    host = await start_host()
    for _ in range(4):
        await host.advance(seconds=TIMEOUT_SECONDS)
    assert len(host.runner.calls) == 2
    assert host.scheduled() == [(0, "enqueue")]
    history = "".join(host.fragments())
    assert history.count('"TaskScheduledId":0') == 2
    await host.raise_event("reply", 1)
    assert host.output() == ["i", 1]


@pytest.mark.parametrize(
    ("point", "runs"),
    [
        ("before-send:job", 1),
        ("before-save:job", 2),
        ("before-delete:job", 1),
        ("before-activity:enqueue", 1),
        ("after-activity:enqueue", 2),
        ("before-event:reply", 1),
        ("after-event:reply", 1),
        ("before-save-after-event:reply", 2),
    ],
)
async def test_each_crash_point_kills_one_host_only(
    start_host: StartHost, point: str, runs: int
) -> None:
    check_crash_point(point)
    host = await start_host(crash_at=(point,))
    await (
        start_host()
    )  # a second host, which runs the activities and episodes that the first host sends
    await host.engine.start_new("job", "i")
    reply = asyncio.create_task(_reply_until_dead(host))
    await until(lambda: host.is_dead)
    reply.cancel()
    survivor = await start_host(crash_at=(point,))
    for _ in range(4):
        await survivor.advance(seconds=TIMEOUT_SECONDS)
        if survivor.status() == "Running":
            await survivor.raise_event("reply", 1)
    await until(lambda: survivor.engine.find("i").is_finished)
    assert not survivor.is_dead
    assert survivor.output() == ["i", 1]
    assert len(survivor.runner.calls) == runs


async def _reply_until_dead(host: EngineHost) -> None:
    while not host.is_dead:
        held = await _is_event_point_armed(host)
        if held or host.status() == "Running":
            await host.engine.raise_event("i", "reply", "1")
        await asyncio.sleep(0.01)


async def _is_event_point_armed(host: EngineHost) -> bool:
    rows = host.azure_storage_engine.database.read("SELECT 1 FROM awaited_events WHERE accepted=0")
    return bool(rows) and host.runner.calls != []


async def test_event_accepted_before_the_episode_kills_the_host(start_host: StartHost) -> None:
    host = await start_host()
    await host.begin("job")
    await host.engine.suspend("i", None)
    await host.raise_event("reply", 1)
    await host.kill()
    host = await start_host(crash_at=("before-save-after-event:reply",))
    await host.engine.resume("i", None)
    async with asyncio.timeout(20):  # without an event, the host dies after 30 s
        await until(lambda: host.is_dead)


def test_unknown_crash_point_is_refused() -> None:
    with pytest.raises(ValueError, match="'before-lunch' is not a crash point: use one of"):
        check_crash_point("before-lunch:job")
    assert check_crash_point("before-save") == CrashPoint.BEFORE_SAVE


# Several hosts


async def test_partitions_of_a_killed_host_are_acquired(start_host: StartHost) -> None:
    one = await start_host()
    two = await start_host()
    for host in (one, two, one, two):
        await host.advance(seconds=1)
    assert (
        len(one.azure_storage_engine.leases.owned),
        len(two.azure_storage_engine.leases.owned),
    ) == (2, 2)
    assert one.azure_storage_engine.leases.owned | two.azure_storage_engine.leases.owned == set(
        range(PARTITION_COUNT)
    )
    ids = [f"i{number}" for number in range(12)]
    for instance_id in ids:
        await one.engine.start_new("job", instance_id)
    await until(lambda: all(two.status(i) == "Running" for i in ids))
    await two.kill()  # `kill` also moves the clock past the timeouts
    for _ in range(2):
        await one.advance(seconds=1)
    assert one.azure_storage_engine.leases.owned == set(range(PARTITION_COUNT))
    for instance_id in ids:
        await one.raise_event("reply", 1, instance_id)
    assert all(one.output(i) == [i, 1] for i in ids)


async def test_stopped_host_releases_its_partitions_at_once(
    start_host: StartHost,
) -> None:
    one, two = await start_host(), await start_host()
    for host in (one, two, one, two):
        await host.advance(seconds=1)
    await two.stop()
    await one.advance(seconds=1)
    assert one.azure_storage_engine.leases.owned == set(range(PARTITION_COUNT))


async def test_host_stopped_while_dequeuing_releases_messages(
    start_host: StartHost,
) -> None:
    first = await start_host()
    engine, committed, gate = first.azure_storage_engine, asyncio.Event(), asyncio.Event()
    transact = engine.database.transact

    async def transact_slowly(work: Callable[[Any], Any]) -> Any:
        result = await transact(work)
        if work.__name__ == "_dequeue" and result[0]:
            committed.set()
            await gate.wait()
        return result

    setattr(engine.database, "transact", transact_slowly)  # noqa: B010 - a method for mypy
    await engine.start_new("job", "i")
    await committed.wait()
    stopping = asyncio.ensure_future(first.stop())
    await first.pump()
    gate.set()
    await stopping
    second = await start_host()  # the clock has not moved, so no visibility timeout has passed
    await second.settle()
    assert second.status() == "Running"


async def test_partition_is_released_after_its_episode(
    start_host: StartHost,
) -> None:
    one = await start_host()
    gate = BlockedOrchestrator(one.runner)
    names = (f"i{number}" for number in range(1000))
    held = next(name for name in names if find_partition(name) == PARTITION_COUNT - 1)
    await one.engine.start_new("job", held)
    await gate.entered.wait()
    two = await start_host()
    one.azure_storage_engine.clock_moved()
    await until(lambda: len(one.azure_storage_engine.leases.owned) == 3)
    assert one.azure_storage_engine.leases.draining == {PARTITION_COUNT - 1}
    gate.opened.set()
    await until(lambda: one.status(held) == "Running")
    for host in (one, two):
        await host.advance(seconds=1)
    assert PARTITION_COUNT - 1 in two.azure_storage_engine.leases.owned


async def test_former_owner_cannot_save_an_episode(
    start_host: StartHost, caplog: pytest.LogCaptureFixture
) -> None:
    """The app of the first host hangs until the second host has taken over the partition.

    Then the first host detects a split brain, and only the second host completes the orchestration.
    """
    one = await start_host()
    gate = BlockedOrchestrator(one.runner)
    await one.engine.start_new("job", "i")
    await gate.entered.wait()
    loop = one.azure_storage_engine.loop
    assert loop is not None
    loop.cancel()  # the first host stops renewing its leases
    one.clock.moment += timedelta(seconds=TIMEOUT_SECONDS)
    two = await start_host()
    await until(lambda: two.status() == "Running")
    gate.opened.set()
    await until(lambda: "split brain detected" in caplog.text)
    for _ in range(2):
        await two.advance(seconds=TIMEOUT_SECONDS)
    assert any(text.startswith("i: split brain detected") for text in caplog.messages)
    assert two.runner.calls == [("enqueue", "i"), ("enqueue", "i")]
    await two.raise_event("reply", 1)
    assert two.output() == ["i", 1]
    assert two.leftovers() == 0


async def test_orchestrations_complete_despite_split_brains(
    start_host: StartHost, caplog: pytest.LogCaptureFixture
) -> None:
    host = await start_host(split_brain_rate=0.5, seed=3)
    ids = [f"i{number}" for number in range(20)]
    for instance_id in ids:
        await host.begin("job", instance_id=instance_id)
        await host.advance(seconds=TIMEOUT_SECONDS)
        await host.raise_event("reply", 1, instance_id)
    for _ in range(4):
        await host.advance(seconds=TIMEOUT_SECONDS)
    assert [host.output(i) for i in ids] == [[i, 1] for i in ids]
    assert "split brain detected" in caplog.text
    assert len(host.runner.calls) > len(ids)
    assert host.leftovers() == 0


async def test_each_host_has_its_own_random_faults(
    start_host: StartHost,
) -> None:
    """Random faults kill the first host in the first episode, but not every later host.

    If all hosts had the same random faults, each host would die in the first episode.
    """
    host = await start_host(crash_rate=0.9, seed=1)
    starts = 0
    await host.engine.start_new("job", "i")
    while starts < 60:
        await host.settle()
        if not host.is_dead and host.status() == "Running":
            break
        if host.is_dead:
            starts += 1
            host.outlast_timeouts()
            await host.start()
        else:
            await host.advance(seconds=TIMEOUT_SECONDS)
    assert 0 < starts < 60


# Operations


async def test_rewind_is_refused(
    start_host: StartHost,
) -> None:
    host = await start_host()
    await host.begin("job")
    with pytest.raises(InstanceNotFailed, match="has status Running"):
        await host.engine.rewind("i")
    await host.begin("nothing", instance_id="failed")
    with pytest.raises(OperationInvalid, match="cannot rewind"):
        await host.engine.rewind("failed")


async def test_wait_ends_when_another_host_has_finished(
    start_host: StartHost,
) -> None:
    one = await start_host()
    two = await start_host()
    await one.begin("job")
    waiting = asyncio.create_task(two.engine.wait_finished("i", 30))
    await one.raise_event("reply", 1)
    async with asyncio.timeout(30):
        assert await waiting
    assert not await two.engine.wait_finished((await one.begin("job", instance_id="j")).id, 0)


async def test_each_engine_refuses_the_others_database(
    tmp_path: Path, start_host: StartHost
) -> None:
    host = await start_host()
    await host.stop()
    local = EngineHost(tmp_path / "task-hub.db")
    with pytest.raises(DatabaseForeign):
        await local.start()
    local = EngineHost(tmp_path / "durable.db")
    await local.start()
    await local.stop()
    assert host.storage is not None
    storage = replace(host.storage, task_hub=tmp_path / "durable.db")
    engine = AzureStorageEngine(storage, host.runner, host.clock, host.options)
    with pytest.raises(DatabaseForeign):
        await engine.start()
    await engine.stop()


async def test_start_waits_for_a_locked_task_hub(
    start_host: StartHost,
) -> None:
    one, two = await start_host(), await start_host()
    assert two.storage is not None
    connection = sqlite3.connect(two.storage.task_hub, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    start = asyncio.create_task(one.engine.start_new("job", "i"))
    await asyncio.sleep(0.05)
    assert not start.done()
    connection.close()
    await start
    await until(lambda: one.status() == "Running")


# Storage delay


DELAY_SECONDS = 0.04
# A timer of the event loop may fire early by the resolution of the clock.
RESOLUTION_SECONDS = 0.001


async def test_storage_delay_is_half_before_and_half_after(
    tmp_path: Path,
) -> None:
    committed = asyncio.Event()
    database = RemoteDatabase(tmp_path / "task-hub.db", DELAY_SECONDS, committed.set)
    await database.open()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    transaction = asyncio.create_task(
        database.transact(
            lambda connection: connection.execute("INSERT INTO settings VALUES('a', 'b')")
        )
    )
    async with asyncio.timeout(30):
        await committed.wait()
        committed_at = loop.time()
        assert database.read("SELECT value FROM settings WHERE name='a'") == [("b",)]
        assert not transaction.done()
        await transaction
    half = DELAY_SECONDS / 2 - RESOLUTION_SECONDS
    assert committed_at - begin >= half
    assert loop.time() - committed_at >= half
    await database.close()


async def test_activity_starts_after_three_storage_delays(
    start_host: StartHost,
) -> None:
    host = await start_host(delay_seconds=DELAY_SECONDS)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await host.engine.start_new("job", "i")
    started_at = loop.time()
    await until(lambda: host.runner.calls)
    ran_at = loop.time()
    await until(lambda: '"Name":"enqueue"' in "".join(host.fragments()))
    await host.engine.raise_event("i", "reply", "1")
    await until(lambda: host.status() == "Completed")
    assert host.output() == ["i", 1]
    assert started_at - begin >= DELAY_SECONDS - RESOLUTION_SECONDS
    # The start message and the work item arrive after half a storage delay each. The host
    # dequeues each of them in a whole storage delay.
    assert ran_at - begin >= 3 * DELAY_SECONDS - 6 * RESOLUTION_SECONDS


def test_instances_are_spread_over_all_partitions() -> None:
    assert {find_partition(f"i{number}") for number in range(100)} == set(range(PARTITION_COUNT))
