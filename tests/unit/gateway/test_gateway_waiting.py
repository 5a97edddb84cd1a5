"""Waiting: few looks, none too late, and a bell that saves them."""

import asyncio
from datetime import UTC, datetime

import pytest

from gateway.durable import Instance, RuntimeStatus
from gateway.errors import Unavailable
from gateway.jobs.waiting import LOOKS_A_SECOND, Heard, Waiters, final_instance
from tests.unit.gateway.skipping import run

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Script:
    """A store whose one job ends at a time, and that may be away at first."""

    def __init__(self, ends_at: float, away_until: float = 0) -> None:
        self.looks: list[float] = []
        self._ends_at = ends_at
        self._away_until = away_until

    async def status(self, job_id: str) -> Instance | None:
        now = asyncio.get_running_loop().time()
        self.looks.append(round(now, 6))
        if now < self._away_until:
            raise Unavailable("durable", "away")
        status = RuntimeStatus.COMPLETED if now >= self._ends_at else RuntimeStatus.RUNNING
        return Instance(status, "", None, NOW)


async def wait(
    script: Script, limit: float, rings: tuple[float, ...] = (), near: tuple[float, ...] = ()
) -> tuple[Instance | None, float]:
    waiters = Waiters()
    loop = asyncio.get_running_loop()
    for when in rings:
        loop.call_at(when, waiters.ring, "job")
    for when in near:
        loop.call_at(when, waiters.near, "job")
    with waiters.listening("job") as bell:
        found = await final_instance(script, "job", bell, limit)
    assert not waiters._bells
    return found, loop.time()


def test_looks_become_rarer() -> None:
    script = Script(ends_at=1000)
    assert run(wait(script, 3)) == (None, 3.0)
    assert script.looks == [0.025, 0.075, 0.175, 0.375, 0.775, 1.275, 1.775, 2.275, 2.775, 3.0]


def test_the_last_look_is_at_the_end() -> None:
    found, elapsed = run(wait(Script(ends_at=2.0), 2))
    assert found is not None
    assert elapsed == 2.0


def test_no_time_no_look() -> None:
    script = Script(ends_at=0)
    assert run(wait(script, 0)) == (None, 0.0)
    assert script.looks == []


def test_a_bell_means_look_now_and_soon_again() -> None:
    script = Script(ends_at=0.71)
    found, elapsed = run(wait(script, 10, rings=(0.7,)))
    assert found is not None
    assert elapsed == pytest.approx(0.7105)
    assert script.looks[4:] == [0.7015, 0.7045, 0.7105]


def test_a_reply_that_came_means_look_soon_and_more_often() -> None:
    script = Script(ends_at=2.03)
    found, elapsed = run(wait(script, 10, near=(2.0,)))
    assert found is not None
    assert elapsed == pytest.approx(2.075)
    assert script.looks[-3:] == [1.775, 2.025, 2.075]


def test_a_bell_after_a_reply_is_heard_at_once() -> None:
    script = Script(ends_at=2.01)
    found, elapsed = run(wait(script, 10, rings=(2.01,), near=(2.0, 2.009)))
    assert found is not None
    assert elapsed == pytest.approx(2.0115)
    assert script.looks[-2:] == [1.775, 2.0115]


def test_a_bell_that_rang_too_early_changes_little() -> None:
    script = Script(ends_at=5)
    found, elapsed = run(wait(script, 10, rings=(0.0, 0.0)))
    assert found is not None
    assert elapsed <= 5.5
    assert len(script.looks) < 25


def test_a_store_that_is_away_ends_no_wait() -> None:
    found, elapsed = run(wait(Script(ends_at=1, away_until=3), 10))
    assert found is not None
    assert elapsed == pytest.approx(3.275)


def test_a_crowd_looks_no_more_often_than_the_host_can_bear() -> None:
    async def crowd() -> tuple[int, float]:
        waiters, script = Waiters(), Script(ends_at=100)
        loop = asyncio.get_running_loop()

        async def one(number: int) -> Instance | None:
            with waiters.listening(str(number)) as bell:
                return await final_instance(script, str(number), bell, 30)

        waiting = asyncio.gather(*(one(number) for number in range(400)))
        loop.call_at(20, waiters.ring, "7")
        await waiting
        woken = [look for look in script.looks if 20 < look < 20.1]
        return len(script.looks), woken[0]

    looks, woken = run(crowd())
    assert 30 * LOOKS_A_SECOND < looks < 33 * LOOKS_A_SECOND + 400
    assert woken == pytest.approx(20.0015)


def test_bells_ring_for_their_own_job_only() -> None:
    async def listen() -> tuple[Heard, ...]:
        waiters = Waiters()
        with (
            waiters.listening("a") as first,
            waiters.listening("a") as second,
            waiters.listening("b") as other,
        ):
            waiters.ring("a")
            waiters.ring("unknown")
            return await first.pause(1), await second.pause(1), await other.pause(1)

    assert run(listen()) == (Heard.END, Heard.END, Heard.NOTHING)
