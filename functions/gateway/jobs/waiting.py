"""Waiting for a job to end.

A waiter is woken when this process records the job's outcome, or reads it. Another instance of the
app may record it too, so a waiter also looks at the store, less and less often.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import Unavailable
from gateway.jobs.outcome import Outcome
from gateway.jobs.record import Record, ended

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.5
LOOKS_A_SECOND: Final = 100
"""How often all waiters of a process together look, so that they leave room for the jobs."""


class Waiter:
    """One caller that waits for a job. Use it on the event loop that it was made on."""

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self._outcome: Outcome | None = None
        self._pause: asyncio.Future[None] | None = None

    @property
    def shortest_pause_seconds(self) -> float:
        """How long to pause so that all waiters together do not look too often."""
        return self._waiters.count / LOOKS_A_SECOND

    def notify(self, outcome: Outcome) -> None:
        """End the pause, or the next one, with this outcome."""
        self._outcome = outcome
        self._end_pause()

    async def pause(self, seconds: float) -> Outcome | None:
        """Wait for the outcome, at most this long; return it, or None."""
        if self._outcome is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.create_future()
            timer = loop.call_later(seconds, self._end_pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        outcome, self._outcome = self._outcome, None
        return outcome

    def _end_pause(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


class Waiters:
    """The waiters of this process, by job."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self.count = 0

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[Waiter]:
        """Return a waiter that is notified of this job's outcome until the block is left."""
        waiter = Waiter(self)
        self._waiters.setdefault(job_id, set()).add(waiter)
        self.count += 1
        try:
            yield waiter
        finally:
            self.count -= 1
            waiters = self._waiters[job_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[job_id]

    def notify(self, job_id: str, outcome: Outcome) -> None:
        """Wake all who wait for this job."""
        for waiter in tuple(self._waiters.get(job_id, ())):
            waiter.notify(outcome)


Look = Callable[[], Awaitable[Record | None]]


async def wait_until_final(
    begun: Record, waiter: Waiter, limit_seconds: float, look: Look
) -> Record | None:
    """Return the final record of the job that began as `begun`; None if the time is over before.

    `look` returns the final record if the store has it. While it raises Unavailable the wait goes
    on: the job is not lost by that.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    while (left := end - loop.time()) > 0:
        pause = max(pause_seconds, waiter.shortest_pause_seconds)
        outcome = await waiter.pause(min(pause, left))
        if outcome is not None:
            return ended(begun, outcome)
        pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        try:
            found = await look()
        except Unavailable:
            continue
        if found is not None:
            return found
    return None
