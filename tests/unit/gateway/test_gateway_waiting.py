"""Test waits for the end of a job: by a notification, the log of ends, or an own look."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.catalogue import Catalogue
from contract.messages import InlineJson, JobReply
from gateway.batches.lines import BatchLines
from gateway.batches.store import BatchStore
from gateway.batches.wake import BatchWaker
from gateway.durable import InstanceSnapshot, RuntimeStatus
from gateway.errors import Unavailable
from gateway.jobs.delayed_start import DelayedStarts
from gateway.jobs.ends import USED_FOR, EndsLog, log_blob
from gateway.jobs.lifecycle import (
    AWAY_SECONDS,
    FOLLOW_SECONDS,
    LONGEST_FOLLOW_SECONDS,
    LOOKS_A_SECOND,
    NEW_WAIT_SECONDS,
    Jobs,
    OutcomeStore,
    Waiters,
)
from gateway.jobs.model import JobOutcome, Record
from gateway.jobs.progress import ProgressStore
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)
INITIAL: Record = {"created_at": "2026-03-01T00:00:00.000Z", "status": "queued"}
SUCCEEDED = JobOutcome.replied(JobReply("job", InlineJson(1), NOW, NOW), NOW)
CANCELLED = JobOutcome.cancelled(NOW)


class ScriptedStore(OutcomeStore):
    """Jobs end at `ends_at` of the loop's clock; before `away_until`, each read fails."""

    def __init__(self, ends_at: float, away_until: float = 0, read_seconds: float = 0) -> None:
        self._read_seconds = read_seconds
        self.looks: list[float] = []
        self._ends_at = ends_at
        self._away_until = away_until

    async def find(self, job_id: str) -> JobOutcome | None:
        return SUCCEEDED if self._has_ended() else None

    async def status(self, job_id: str) -> InstanceSnapshot | None:
        output = {"status": "succeeded"}
        ended = InstanceSnapshot(RuntimeStatus.COMPLETED, "", output, NOW)
        found = ended if self._has_ended() else None
        if self._read_seconds:
            await asyncio.sleep(self._read_seconds)  # in the simulated time of the loop
        return found

    def _has_ended(self) -> bool:
        now = asyncio.get_running_loop().time()
        self.looks.append(round(now, 3))
        if now < self._away_until:
            raise Unavailable("blobs", "away")
        return now >= self._ends_at


@dataclass
class Instance:
    """One instance of the app, which reads the outcomes in `store`, and the log in `blobs`."""

    store: ScriptedStore
    payloads: MemoryPayloads = field(default_factory=MemoryPayloads)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.clock.now += timedelta(seconds=30)  # at the full minute, two logs are read
        self.blobs = CountingBlobs(self.payloads, self.clock)
        self.waiters = Waiters(EndsLog(self.blobs, self.clock), self.store)
        progress = ProgressStore(self.blobs, Catalogue.load())
        starts = DelayedStarts(self.store)
        lines = BatchLines(
            self.blobs,
            BatchStore(self.blobs),
            BatchWaker(),
            Catalogue.load(),
            self.store,
            progress,
            self.waiters,
            self.clock,
        )
        self.jobs = Jobs(self.store, progress, self.waiters, starts, lines, self.clock)

    async def wait(self, limit: float, job_id: str = "job") -> str | None:
        """Wait for a job; return its status, or None if it has not ended."""
        durable: Any = self.store
        with self.waiters.waiting(job_id) as ended:
            found = await self.jobs.wait(durable, job_id, INITIAL, ended, limit)
        return str(found["status"]) if found else None

    def end_elsewhere(self, at: float, job_id: str = "job") -> None:
        """Let another instance append the end of a job to the log at a time of the loop."""
        other = EndsLog(self.blobs, self.clock)
        loop = asyncio.get_running_loop()
        loop.call_at(at, lambda: asyncio.ensure_future(other.append(job_id, CANCELLED)))


@dataclass
class CountingBlobs(MemoryBlobs):
    """Records when the log is read. Until `away_until`, its reads fail."""

    reads: list[float] = field(default_factory=list)
    away_until: float = 0.0

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        now = asyncio.get_running_loop().time()
        self.reads.append(round(now, 6))
        if now < self.away_until:
            raise Unavailable("blobs", "away")
        return await super().read_from(blob, offset, max_bytes)


async def wait(
    store: ScriptedStore, limit: float, notified_at: float | None = None
) -> tuple[str | None, float]:
    """Wait for a job that is cancelled at `notified_at`; return its status and the time."""
    instance = Instance(store)
    loop = asyncio.get_running_loop()
    if notified_at is not None:
        loop.call_at(notified_at, instance.waiters.notify, "job", CANCELLED)
    found = await instance.wait(limit)
    assert instance.waiters.count == 0
    return found, round(loop.time(), 3)


@pytest.mark.parametrize(
    ("store", "limit", "notified_at", "expected", "looks"),
    [
        (ScriptedStore(1000), 0.4, None, (None, 0.4), [0.4]),
        (ScriptedStore(9), 30, None, ("succeeded", 15.0), [1.0, 3.0, 7.0, 15.0]),
        (ScriptedStore(0), 0, None, (None, 0.0), []),
        (ScriptedStore(1000), 10, 1.7, ("cancelled", 1.7), [1.0]),
        (ScriptedStore(1000), 10, 0.0, ("cancelled", 0.0), []),
        (ScriptedStore(1000, read_seconds=5), 10, 1.1, ("cancelled", 1.1), [1.0]),
    ],
)
def test_request_looks_itself_rarely(
    store: ScriptedStore,
    limit: float,
    notified_at: float | None,
    expected: tuple[str | None, float],
    looks: list[float],
) -> None:
    assert run(wait(store, limit, notified_at)) == expected
    assert store.looks == looks


def test_looks_become_no_rarer_than_every_8_s() -> None:
    store = ScriptedStore(ends_at=1000)
    run(wait(store, 40))
    assert store.looks == [1.0, 3.0, 7.0, 15.0, 23.0, 31.0, 39.0, 40.0]


def test_look_in_progress_gets_one_more_second() -> None:
    assert run(wait(ScriptedStore(ends_at=0, read_seconds=5), 1)) == (None, 2.0)
    assert run(wait(ScriptedStore(ends_at=0, read_seconds=0.5), 1)) == ("succeeded", 1.5)


def test_wait_outlasts_an_unavailable_store() -> None:
    found, elapsed = run(wait(ScriptedStore(ends_at=1, away_until=5), 10))
    assert (found, elapsed) == ("succeeded", 7.0)


class TestManyWaiters:
    async def crowd(self, count: int) -> tuple[Instance, float]:
        """Let as many requests wait for 30 s; one job ends after 20 s."""
        instance = Instance(ScriptedStore(ends_at=100))
        loop = asyncio.get_running_loop()
        woken_at: list[float] = []

        async def one(number: int) -> None:
            if await instance.wait(30, str(number)) is not None:
                woken_at.append(loop.time())

        waiting = asyncio.gather(*(one(number) for number in range(count)))
        instance.end_elsewhere(20, "7")
        await waiting
        (woken,) = woken_at
        return instance, woken

    def test_looks_together_are_limited(self) -> None:
        instance, _ = run(self.crowd(400))
        # Each request looks once more when its own wait ends.
        before_the_end = [at for at in instance.store.looks if at < 29.9]
        assert len(before_the_end) <= 30 * LOOKS_A_SECOND
        assert len(instance.store.looks) == len(before_the_end) + 399

    @pytest.mark.parametrize("count", [8, 400])
    def test_all_are_served_by_one_reader(self, count: int) -> None:
        instance, woken = run(self.crowd(count))
        assert woken == pytest.approx(20, abs=0.03 + LONGEST_FOLLOW_SECONDS)
        reads = 20 / LONGEST_FOLLOW_SECONDS + 10 / FOLLOW_SECONDS
        assert len(instance.blobs.reads) == pytest.approx(reads, rel=0.02)


class TestLog:
    def test_new_waits_are_read_for_twice_as_often(self) -> None:
        async def main() -> list[float]:
            instance = Instance(ScriptedStore(ends_at=1000))
            instance.end_elsewhere(0.0, "another")
            await instance.wait(1)
            return instance.blobs.reads

        reads = run(main())
        early = [at for at in reads if at <= NEW_WAIT_SECONDS]
        assert len(early) == pytest.approx(2 * NEW_WAIT_SECONDS / FOLLOW_SECONDS, abs=3)
        late = len(reads) - len(early)
        assert late == pytest.approx((1 - NEW_WAIT_SECONDS) / FOLLOW_SECONDS, abs=2)

    @pytest.mark.parametrize(("is_used", "late_seconds"), [(True, 0.03), (False, 0.11)])
    def test_end_elsewhere_is_seen_within(self, *, is_used: bool, late_seconds: float) -> None:
        async def main() -> tuple[str | None, float]:
            instance = Instance(ScriptedStore(ends_at=1000))
            if is_used:
                instance.end_elsewhere(0.0, "another")
            instance.end_elsewhere(5.01)
            return await instance.wait(30), asyncio.get_running_loop().time()

        status, at = run(main())
        assert status == "cancelled"
        assert 5.01 < at < 5.01 + late_seconds

    def test_log_without_new_lines_is_read_rarely_after_a_minute(self) -> None:
        async def main() -> list[float]:
            instance = Instance(ScriptedStore(ends_at=1000))
            instance.end_elsewhere(0.0, "another")
            await instance.wait(10)
            instance.clock.now += USED_FOR
            await instance.wait(10)
            return instance.blobs.reads

        reads = run(main())
        used = [at for at in reads if at < 10]
        assert len(used) == pytest.approx(10 / FOLLOW_SECONDS, rel=0.1)
        assert len(reads) - len(used) == pytest.approx(10 / LONGEST_FOLLOW_SECONDS, rel=0.1)

    @pytest.mark.parametrize(
        ("is_used", "wait_seconds", "reads"),
        [(True, 0.009, False), (True, 0.029, True), (False, 0.029, False), (False, 0.06, True)],
    )
    def test_reads_begin_after(self, *, is_used: bool, wait_seconds: float, reads: bool) -> None:
        async def main() -> list[float]:
            instance = Instance(ScriptedStore(ends_at=1000))
            if is_used:
                await instance.blobs.append(log_blob(instance.clock()), b"{}\n")
                await instance.wait(0.1)
                instance.blobs.reads.clear()
            for _ in range(100):
                await instance.wait(wait_seconds)
            await asyncio.sleep(1)
            return instance.blobs.reads

        assert bool(run(main())) is reads

    def test_reader_survives_a_failing_store(self) -> None:
        async def main() -> tuple[str | None, float]:
            instance = Instance(ScriptedStore(ends_at=1000))
            instance.blobs.away_until = 3.0
            instance.end_elsewhere(2.0)
            return await instance.wait(30), asyncio.get_running_loop().time()

        status, at = run(main())
        assert status == "cancelled"
        assert 3.0 < at < 3.0 + AWAY_SECONDS + 0.1

    def test_long_outcome_is_read_from_its_blob(self) -> None:
        async def main() -> tuple[str | None, float]:
            instance = Instance(ScriptedStore(ends_at=0.5))
            line = b'{"job":"job"}\n'
            loop = asyncio.get_running_loop()
            log = log_blob(instance.clock())
            loop.call_at(0.5, lambda: asyncio.ensure_future(instance.blobs.append(log, line)))
            return await instance.wait(30), loop.time()

        status, at = run(main())
        assert status == "succeeded"
        assert 0.5 <= at < 0.55


def test_outcome_notifies_only_requests_for_its_job() -> None:
    async def listen() -> tuple[JobOutcome, ...]:
        waiters = Instance(ScriptedStore(ends_at=1000)).waiters
        with (
            waiters.waiting("a") as first,
            waiters.waiting("a") as second,
            waiters.waiting("b") as other,
        ):
            waiters.notify("a", CANCELLED)
            waiters.notify("unknown", CANCELLED)
            assert not other.done()
            return first.result(), second.result()

    assert run(listen()) == (CANCELLED, CANCELLED)
