"""Waiting for the end of a job: woken by its outcome, else looking less and less often."""

import asyncio
from datetime import UTC, datetime

import pytest

from gateway.errors import Unavailable
from gateway.jobs.outcome import Outcome
from gateway.jobs.record import Record
from gateway.jobs.waiting import LOOKS_A_SECOND, Waiters, wait_until_final
from tests.unit.gateway.skipping import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BEGUN: Record = {"created_at": "2026-03-01T00:00:00.000Z", "status": "queued"}
FINAL: Record = {**BEGUN, "status": "succeeded"}
CANCELLED = Outcome.cancelled(NOW)


class Script:
    """A store whose one job ends at a time, and that may not answer at first."""

    def __init__(self, ends_at: float, away_until: float = 0) -> None:
        self.looks: list[float] = []
        self._ends_at = ends_at
        self._away_until = away_until

    async def look(self) -> Record | None:
        now = asyncio.get_running_loop().time()
        self.looks.append(round(now, 6))
        if now < self._away_until:
            raise Unavailable("blobs", "away")
        return FINAL if now >= self._ends_at else None


async def wait(
    script: Script, limit: float, notified_at: float | None = None
) -> tuple[Record | None, float]:
    waiters = Waiters()
    loop = asyncio.get_running_loop()
    if notified_at is not None:
        loop.call_at(notified_at, waiters.notify, "job", CANCELLED)
    with waiters.waiting("job") as waiter:
        found = await wait_until_final(BEGUN, waiter, limit, script.look)
    assert not waiters._waiters
    return found, loop.time()


def test_looks_become_rarer() -> None:
    script = Script(ends_at=1000)
    assert run(wait(script, 3)) == (None, 3.0)
    assert script.looks == [0.025, 0.075, 0.175, 0.375, 0.775, 1.275, 1.775, 2.275, 2.775, 3.0]


def test_the_last_look_is_at_the_end_of_the_wait() -> None:
    assert run(wait(Script(ends_at=2.0), 2)) == (FINAL, 2.0)


def test_a_wait_of_no_time_does_not_look() -> None:
    script = Script(ends_at=0)
    assert run(wait(script, 0)) == (None, 0.0)
    assert script.looks == []


def test_a_notified_waiter_returns_the_outcome_without_another_look() -> None:
    script = Script(ends_at=1000)
    found, elapsed = run(wait(script, 10, notified_at=0.7))
    assert found is not None
    assert found["status"] == "cancelled"
    assert elapsed == 0.7
    assert script.looks == [0.025, 0.075, 0.175, 0.375]


def test_a_notification_before_the_first_pause_is_kept() -> None:
    script = Script(ends_at=1000)
    found, elapsed = run(wait(script, 10, notified_at=0.0))
    assert found is not None
    assert (elapsed, script.looks) == (0.0, [])


def test_a_store_that_does_not_answer_ends_no_wait() -> None:
    found, elapsed = run(wait(Script(ends_at=1, away_until=3), 10))
    assert found is FINAL
    assert elapsed == pytest.approx(3.275)


def test_a_crowd_of_waiters_shares_a_bounded_number_of_looks() -> None:
    async def crowd() -> tuple[int, float]:
        waiters, script = Waiters(), Script(ends_at=100)
        loop = asyncio.get_running_loop()
        woken_at: list[float] = []

        async def one(number: int) -> None:
            with waiters.waiting(str(number)) as waiter:
                if await wait_until_final(BEGUN, waiter, 30, script.look) is not None:
                    woken_at.append(loop.time())

        waiting = asyncio.gather(*(one(number) for number in range(400)))
        loop.call_at(20, waiters.notify, "7", CANCELLED)
        await waiting
        (woken,) = woken_at
        return len(script.looks), woken

    looks, woken = run(crowd())
    assert 30 * LOOKS_A_SECOND * 0.98 < looks < 33 * LOOKS_A_SECOND + 400
    assert woken == 20.0


def test_only_the_waiters_of_the_job_are_notified() -> None:
    async def listen() -> tuple[Outcome | None, ...]:
        waiters = Waiters()
        with (
            waiters.waiting("a") as first,
            waiters.waiting("a") as second,
            waiters.waiting("b") as other,
        ):
            waiters.notify("a", CANCELLED)
            waiters.notify("unknown", CANCELLED)
            return await first.pause(1), await second.pause(1), await other.pause(1)

    assert run(listen()) == (CANCELLED, CANCELLED, None)
