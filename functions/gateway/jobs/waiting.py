"""Waiting for a job to end: a loop over its status, woken early by what happens in this process.

The status alone decides. The orchestration may end on another instance of the app, and one that
ends here is not stored yet, so being woken only means: look very soon, and soon again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from gateway.durable import Instance
from gateway.errors import Unavailable

# Each look is a request to the host. A job that ends within the first pause costs one, thanks to
# the bell; on another instance it is heard of at most this much, then half its age, too late.
FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.5
LOOKS_A_SECOND: Final = 100
"""Of all unwoken waiters together: four hundred must not keep the host from their own jobs."""

WOKEN_PAUSE_SECONDS: Final = 0.0015
"""About what the host needs to store the end of an orchestration."""


class Bell:
    """What one waiter listens to. It stays rung until it was heard."""

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._is_rung = False
        self._pause: asyncio.Future[None] | None = None

    @property
    def fair_pause_seconds(self) -> float:
        """How long to pause so that all waiters together do not look too often."""
        return self._waiters.count / LOOKS_A_SECOND

    def ring(self) -> None:
        """Wake the waiter now, or at its next pause. From any thread."""
        self._loop.call_soon_threadsafe(self._ring)

    def _ring(self) -> None:
        self._is_rung = True
        self._end_pause()

    async def pause(self, seconds: float) -> bool:
        """Wait until rung, at most this long; returns whether it rang."""
        if not self._is_rung:
            self._pause = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._end_pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        is_rung, self._is_rung = self._is_rung, False
        return is_rung

    def _end_pause(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


class Waiters:
    """The bells of this process, by job."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell]] = {}
        self.count = 0

    @contextmanager
    def listening(self, job_id: str) -> Iterator[Bell]:
        """A bell that rings when this process hears of the job."""
        bell = Bell(self)
        self._bells.setdefault(job_id, set()).add(bell)
        self.count += 1
        try:
            yield bell
        finally:
            self.count -= 1
            bells = self._bells[job_id]
            bells.remove(bell)
            if not bells:
                del self._bells[job_id]

    def ring(self, job_id: str) -> None:
        """This job is about to end. From any thread: Functions runs orchestrators in a pool."""
        for bell in tuple(self._bells.get(job_id, ())):
            bell.ring()


class Store(Protocol):
    """What can be looked at: the part of the port to Durable that a waiter needs."""

    async def status(self, job_id: str) -> Instance | None:
        """The orchestration with this id, or None; raises Unavailable."""


async def final_instance(
    store: Store, job_id: str, bell: Bell, limit_seconds: float
) -> Instance | None:
    """The orchestration once it has ended, else None when the time is over.

    While the store does not answer, the wait goes on: the job is not lost by that.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    is_woken = False
    while (left := end - loop.time()) > 0:
        fair_seconds = 0.0 if is_woken else bell.fair_pause_seconds
        if await bell.pause(min(max(pause_seconds, fair_seconds), left)):
            is_woken = True
            pause_seconds = WOKEN_PAUSE_SECONDS
            await asyncio.sleep(min(pause_seconds, max(0.0, end - loop.time())))
        pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        try:
            instance = await store.status(job_id)
        except Unavailable:
            continue
        if instance is not None and instance.runtime_status.is_final:
            return instance
    return None
