"""Test waits for the end of a job, by a notification or by repeated reads of the outcome."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from contract.catalogue import Catalogue
from contract.messages import InlineJson, JobReply
from gateway.durable import InstanceSnapshot, RuntimeStatus
from gateway.errors import Unavailable
from gateway.jobs.delayed_start import DelayedStarts
from gateway.jobs.lifecycle import LOOKS_A_SECOND, OWN_ENDS, Jobs, OutcomeStore, Waiters
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
        found = SUCCEEDED if self._has_ended() else None
        if self._read_seconds:
            await asyncio.sleep(self._read_seconds)  # in the simulated time of the loop
        return found

    async def status(self, job_id: str) -> InstanceSnapshot | None:
        output = {"status": "succeeded"}
        ended = InstanceSnapshot(RuntimeStatus.COMPLETED, "", output, NOW)
        return ended if self._has_ended() else None

    def _has_ended(self) -> bool:
        now = asyncio.get_running_loop().time()
        self.looks.append(round(now, 6))
        if now < self._away_until:
            raise Unavailable("blobs", "away")
        return now >= self._ends_at


def jobs_of(store: ScriptedStore, waiters: Waiters) -> tuple[Jobs, Any]:
    """Return a `Jobs` object and a Durable Functions client, which both read jobs from `store`."""
    clock = ManualClock()
    progress = ProgressStore(MemoryBlobs(MemoryPayloads(), clock), Catalogue.load())
    return Jobs(store, progress, waiters, DelayedStarts(store, waiters), clock), store


async def wait(
    store: ScriptedStore, limit: float, notified_at: float | None = None
) -> tuple[str | None, float]:
    """Wait for a job that is cancelled at `notified_at`; return its status and the time."""
    waiters = Waiters()
    jobs, durable = jobs_of(store, waiters)
    loop = asyncio.get_running_loop()
    if notified_at is not None:
        loop.call_at(notified_at, waiters.notify, "job", CANCELLED)
    with waiters.waiting("job") as ended:
        found = await jobs.wait(durable, "job", INITIAL, ended, limit)
    assert waiters.count == 0
    return str(found["status"]) if found else None, loop.time()


FIRST_LOOKS = [0.025, 0.075, 0.175, 0.375]


@pytest.mark.parametrize(
    ("store", "limit", "notified_at", "expected", "looks"),
    [
        (ScriptedStore(1000), 0.4, None, (None, 0.4), [*FIRST_LOOKS, 0.4]),
        (ScriptedStore(1.3), 1.3, None, ("succeeded", 1.3), [*FIRST_LOOKS, 0.775, 1.275, 1.3]),
        (ScriptedStore(0), 0, None, (None, 0.0), []),
        (ScriptedStore(1000), 10, 0.7, ("cancelled", 0.7), FIRST_LOOKS),
        (ScriptedStore(1000), 10, 0.0, ("cancelled", 0.0), []),
        (ScriptedStore(1000, read_seconds=5), 10, 0.1, ("cancelled", 0.1), [0.025]),
    ],
)
def test_outcome_is_read_until_the_end_or_a_notification(
    store: ScriptedStore,
    limit: float,
    notified_at: float | None,
    expected: tuple[str | None, float],
    looks: list[float],
) -> None:
    assert run(wait(store, limit, notified_at)) == expected
    assert store.looks == looks


def test_reads_become_no_rarer_than_every_half_second() -> None:
    store = ScriptedStore(ends_at=1000)
    run(wait(store, 3))
    assert store.looks[4:] == [0.775, 1.275, 1.775, 2.275, 2.775, 3.0]


def test_read_in_progress_gets_one_more_second() -> None:
    assert run(wait(ScriptedStore(ends_at=0, read_seconds=5), 0.1)) == (None, 1.025)
    assert run(wait(ScriptedStore(ends_at=0, read_seconds=0.5), 0.1)) == ("succeeded", 0.525)


def test_wait_outlasts_an_unavailable_store() -> None:
    found, elapsed = run(wait(ScriptedStore(ends_at=1, away_until=3), 10))
    assert found == "succeeded"
    assert elapsed == pytest.approx(3.275)


def test_all_reads_together_are_limited() -> None:
    async def crowd() -> tuple[int, float]:
        waiters, store = Waiters(), ScriptedStore(ends_at=100)
        jobs, durable = jobs_of(store, waiters)
        loop = asyncio.get_running_loop()
        woken_at: list[float] = []

        async def one(number: int) -> None:
            with waiters.waiting(str(number)) as ended:
                if await jobs.wait(durable, str(number), INITIAL, ended, 30) is not None:
                    woken_at.append(loop.time())

        waiting = asyncio.gather(*(one(number) for number in range(400)))
        loop.call_at(20, waiters.notify, "7", CANCELLED)
        await waiting
        (woken,) = woken_at
        return len(store.looks), woken

    looks, woken = run(crowd())
    assert 30 * LOOKS_A_SECOND * 0.98 < looks < 33 * LOOKS_A_SECOND + 400
    assert woken == 20.0


def test_outcome_notifies_only_requests_for_its_job() -> None:
    async def listen() -> tuple[JobOutcome, ...]:
        waiters = Waiters()
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


async def reads_after_own_ends(own_ends: int, *, ends_elsewhere: bool = False) -> list[float]:
    """Return when a request reads the outcome, after `own_ends` notified ones and one other."""
    waiters = Waiters()

    async def wait_once(store: ScriptedStore, limit: float, *, is_notified: bool = False) -> None:
        jobs, durable = jobs_of(store, waiters)
        with waiters.waiting("job") as ended:
            if is_notified:
                waiters.notify("job", CANCELLED)
            await jobs.wait(durable, "job", INITIAL, ended, limit)

    for _ in range(own_ends):
        await wait_once(ScriptedStore(ends_at=1000), 1, is_notified=True)
    if ends_elsewhere:
        await wait_once(ScriptedStore(ends_at=0), 1)
    begin, store = asyncio.get_running_loop().time(), ScriptedStore(ends_at=1000)
    await wait_once(store, 0.9)
    return [round(look - begin, 6) for look in store.looks]


def test_only_instance_reads_first_after_500_ms() -> None:
    assert run(reads_after_own_ends(OWN_ENDS - 1))[0] == 0.025
    assert run(reads_after_own_ends(OWN_ENDS)) == [0.5, 0.9]


def test_second_instance_makes_it_25_ms() -> None:
    assert run(reads_after_own_ends(OWN_ENDS, ends_elsewhere=True))[0] == 0.025
