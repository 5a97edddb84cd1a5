"""Waiting for a job to end: a loop over its status, woken early by replies to this process.

The status alone decides. Another instance of the app may take the reply, and a woken waiter may
look before the orchestration has moved, so being woken only means: look now, and soon again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.durable import Durable, Instance
from gateway.errors import Unavailable

FIRST_PAUSE_SECONDS: Final = 0.01
LONGEST_PAUSE_SECONDS: Final = 0.5
WOKEN_PAUSE_SECONDS: Final = 0.002


class Bell:
    """What one waiter listens to. It stays rung until it was heard."""

    def __init__(self) -> None:
        self._rung = False
        self._pause: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the waiter now, or at its next pause."""
        self._rung = True
        self._end_pause()

    async def pause(self, seconds: float) -> bool:
        """Wait until rung, at most this long; returns whether it rang."""
        if not self._rung:
            loop = asyncio.get_running_loop()
            self._pause = loop.create_future()
            timer = loop.call_later(seconds, self._end_pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        rung, self._rung = self._rung, False
        return rung

    def _end_pause(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


class Waiters:
    """The bells of this process, by job."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell]] = {}

    @contextmanager
    def listening(self, job_id: str) -> Iterator[Bell]:
        """A bell that rings when this process hears of the job."""
        bell = Bell()
        self._bells.setdefault(job_id, set()).add(bell)
        try:
            yield bell
        finally:
            bells = self._bells[job_id]
            bells.remove(bell)
            if not bells:
                del self._bells[job_id]

    def ring(self, job_id: str) -> None:
        """Something has happened to this job."""
        for bell in self._bells.get(job_id, ()):
            bell.ring()


async def final_instance(
    durable: Durable, job_id: str, bell: Bell, limit_seconds: float
) -> Instance | None:
    """The orchestration once it has ended, else None when the time is over.

    While the store does not answer, the wait goes on: the job is not lost by that.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    while (left := end - loop.time()) > 0:
        if await bell.pause(min(pause_seconds, left)):
            pause_seconds = WOKEN_PAUSE_SECONDS
        else:
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
        try:
            instance = await durable.status(job_id)
        except Unavailable:
            continue
        if instance is not None and instance.runtime_status.is_final:
            return instance
    return None
