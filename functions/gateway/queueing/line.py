"""What this process knows of one queue: its length, and what has come and gone since.

The length is counted no more than once a second and by one caller at a time. Nothing here may fail
a request: what cannot be had is None.
"""

import asyncio
import logging
import math
from bisect import insort
from typing import Final, Protocol

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.queueing.places import Count, length_now, position

FRESH_SECONDS: Final = 1.0
"""For how long a count is good."""

USABLE_SECONDS: Final = 5.0
"""Up to which age a count may refuse a submit, which does not wait for a better one."""

LOOK_SECONDS: Final = 2.0
REST_SECONDS: Final = 10.0
"""After a look that failed: rights do not come by asking again."""

MOST_ARRIVALS: Final = 10_000

_log = logging.getLogger(__name__)


class Lengths(Protocol):
    """What counts the messages of a queue."""

    async def length(self, queue: str) -> int:
        """How many messages a queue has; raises Unavailable."""


class Line:
    """One queue. Its name comes with each question that may need a look at it."""

    def __init__(self, lengths: Lengths, clock: Clock) -> None:
        self._lengths = lengths
        self._clock = clock
        self._arrivals: list[float] = []
        self._replies = 0
        self._count: Count | None = None
        self._rest_until = -math.inf
        self._look: asyncio.Task[Count | None] | None = None

    def came(self, created_at_seconds: float) -> None:
        """A job was sent to this queue from here."""
        insort(self._arrivals, created_at_seconds)
        if len(self._arrivals) > MOST_ARRIVALS:
            # Who asks for the place of an older job gets a larger number than it has.
            del self._arrivals[: MOST_ARRIVALS // 2]

    def went(self) -> None:
        """A job of this queue was replied to."""
        self._replies += 1

    async def length(self, queue: str) -> int | None:
        """How many jobs there are."""
        count = await self._fresh_count(queue)
        return None if count is None else length_now(count, self._arrivals, self._replies)

    async def position(self, queue: str, created_at_seconds: float) -> int | None:
        """The place of a job that came at this time, from 1."""
        count = await self._fresh_count(queue)
        if count is None:
            return None
        return position(count, self._arrivals, self._replies, created_at_seconds)

    def length_at_hand(self, queue: str) -> int | None:
        """The length by a count that may be a little old; sets off a better one."""
        count, now = self._count, self._now()
        if count is None or now - count.at_seconds > FRESH_SECONDS:
            self._start_look(queue)
        if count is None or now - count.at_seconds > USABLE_SECONDS:
            return None
        return length_now(count, self._arrivals, self._replies)

    async def _fresh_count(self, queue: str) -> Count | None:
        count = self._count
        if count is not None and self._now() - count.at_seconds <= FRESH_SECONDS:
            return count
        look = self._start_look(queue)
        # Several may wait for the one look: none of them takes it along when it leaves.
        return await asyncio.shield(look) if look else None

    def _start_look(self, queue: str) -> asyncio.Task[Count | None] | None:
        if self._look is None:
            if self._now() < self._rest_until:
                return None
            self._look = asyncio.get_running_loop().create_task(self._counted(queue))
        return self._look

    async def _counted(self, queue: str) -> Count | None:
        replies, now = self._replies, self._now()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                self._count = Count(await self._lengths.length(queue), now, replies)
        except (Unavailable, TimeoutError) as error:
            self._count = None
            self._rest_until = self._now() + REST_SECONDS
            _log.warning(
                "the length of queue %s is not known, nor where its jobs stand: %s; asked again "
                "in %d s",
                *(queue, error or "no answer", REST_SECONDS),
            )
        finally:
            self._look = None
        return self._count

    def _now(self) -> float:
        return self._clock().timestamp()
