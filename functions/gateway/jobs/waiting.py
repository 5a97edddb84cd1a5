"""Waiting for a job to end: a loop over its status, woken early by what happens in this process.

The status alone decides. The orchestration may end on another instance of the app, and one that
ends here is not stored yet, so being woken only means: look very soon, and soon again. On Flex
Consumption orchestrations never run where requests do. There a reply that comes in here tells that
the end is near, and the pauses begin anew.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
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


class Heard(IntEnum):
    """What a waiter hears of its job: that it was replied to, that it has ended."""

    NOTHING = 0
    NEAR = 1
    END = 2


class Bell:
    """What one waiter listens to. It stays rung until it was heard."""

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self._loop = asyncio.get_running_loop()
        self._heard = Heard.NOTHING
        self._pause: asyncio.Future[None] | None = None

    @property
    def fair_pause_seconds(self) -> float:
        """How long to pause so that all waiters together do not look too often."""
        return self._waiters.count / LOOKS_A_SECOND

    def ring(self) -> None:
        """Wake the waiter now, or at its next pause. From any thread."""
        self._loop.call_soon_threadsafe(self.hear, Heard.END)

    def hear(self, what: Heard) -> None:
        """The same from the waiter's own loop; of all until its next pause the most counts."""
        self._heard = max(self._heard, what)
        self._end_pause()

    async def pause(self, seconds: float) -> Heard:
        """Wait until something is heard, at most this long; returns what that was."""
        if not self._heard:
            self._pause = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._end_pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        heard, self._heard = self._heard, Heard.NOTHING
        return heard

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

    def near(self, job_id: str) -> None:
        """This job was replied to: it ends soon, maybe elsewhere."""
        for bell in self._bells.get(job_id, ()):
            bell.hear(Heard.NEAR)


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
        heard = await bell.pause(min(max(pause_seconds, fair_seconds), left))
        if heard is Heard.NEAR:
            pause_seconds = min(pause_seconds, FIRST_PAUSE_SECONDS)
            continue
        if heard is Heard.END:
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
