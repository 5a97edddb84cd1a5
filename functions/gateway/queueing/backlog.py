"""What this process knows of each model's backlog: its queue's length, its pace, its signs of life.

The length comes from the queue itself, looked at no more than once a second and by one caller at a
time; the rest is what passes through this process, and is lost with it. Nothing here may fail a
request: what cannot be had is None. A submit never waits for a look, it only sets one off.
"""

import asyncio
import logging
import math
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from contract.catalogue import Model
from contract.messages import FailureCode
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.queueing.pace import Pace, Reply
from gateway.queueing.places import (
    Count,
    Phase,
    Place,
    length_now,
    position,
    seems_cold,
    wait_seconds,
)

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


@dataclass(slots=True)
class _Known:
    """What is known of one model."""

    quiet_since: float
    arrivals: list[float] = field(default_factory=list)
    replies: int = 0
    pace: Pace = field(default_factory=Pace)
    count: Count | None = None
    rest_until: float = -math.inf
    look: asyncio.Task[Count | None] | None = None


class Backlog:
    """The backlogs of all models, as this process knows them."""

    def __init__(self, lengths: Lengths, clock: Clock) -> None:
        self._lengths = lengths
        self._clock = clock
        self._begun_at = self._now()
        self._known: dict[str, _Known] = {}

    def accepted(self, model: str, created_at: datetime) -> None:
        """A job was accepted here."""
        arrivals = self._of(model).arrivals
        insort(arrivals, created_at.timestamp())
        if len(arrivals) > MOST_ARRIVALS:
            # Who asks for the place of an older job gets a larger number than it has.
            del arrivals[: MOST_ARRIVALS // 2]

    def heard(self, model: str) -> None:
        """A worker of this model gave a sign of life."""
        self._of(model).quiet_since = self._now()

    def ended(self, record: Mapping[str, Any]) -> None:
        """A job has ended with this record. From any thread: orchestrators run in a pool."""
        try:
            reply = _reply(record, self._now())
        except (KeyError, TypeError, ValueError):
            return  # an orchestration must not fail for its statistics
        if reply is None:
            return
        known = self._of(record["model"])
        known.pace = known.pace.after(reply)
        known.replies += 1
        known.quiet_since = reply.at_seconds

    async def place(self, model: Model, created_at: datetime) -> Place:
        """Where a job that has not begun stands."""
        known = self._of(model.name)
        created = created_at.timestamp()
        count = await self._fresh_count(model.queue, known)
        is_cold = seems_cold(max(known.quiet_since, created), self._now(), known.pace)
        phase = Phase.COLD_STARTING if is_cold else Phase.QUEUED
        if count is None:
            return Place(phase=phase)
        place = position(count, known.arrivals, known.replies, created)
        # How long a worker takes to come is not known, so neither is how long the job does.
        eta = None if is_cold else wait_seconds(place, known.pace.seconds_per_job)
        return Place(place, eta, phase)

    async def outlook(self, model: Model) -> tuple[int | None, float | None]:
        """The length of a model's queue, and how long a job that came now would take."""
        known = self._of(model.name)
        count = await self._fresh_count(model.queue, known)
        if count is None:
            return None, None
        length = length_now(count, known.arrivals, known.replies)
        return length, wait_seconds(length + 1, known.pace.seconds_per_job)

    def excess_seconds(self, model: Model, deadline_seconds: float) -> float | None:
        """By how much a job that came now would miss its deadline; None if it may keep it.

        By the more favourable estimate, and never without knowing both the length and the pace.
        """
        known = self._of(model.name)
        least = known.pace.least_seconds_per_job
        if not least:
            return None
        count, now = known.count, self._now()
        if count is None or now - count.at_seconds > FRESH_SECONDS:
            self._start_look(model.queue, known)
        if count is None or now - count.at_seconds > USABLE_SECONDS:
            return None
        jobs = length_now(count, known.arrivals, known.replies) + 1
        excess = jobs * least - deadline_seconds
        return excess if excess > 0 else None

    async def _fresh_count(self, queue: str, known: _Known) -> Count | None:
        count = known.count
        if count is not None and self._now() - count.at_seconds <= FRESH_SECONDS:
            return count
        look = self._start_look(queue, known)
        # Several may wait for the one look: none of them takes it along when it leaves.
        return await asyncio.shield(look) if look else None

    def _start_look(self, queue: str, known: _Known) -> asyncio.Task[Count | None] | None:
        if known.look is None:
            if self._now() < known.rest_until:
                return None
            known.look = asyncio.get_running_loop().create_task(self._look(queue, known))
        return known.look

    async def _look(self, queue: str, known: _Known) -> Count | None:
        replies, now = known.replies, self._now()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                known.count = Count(await self._lengths.length(queue), now, replies)
        except (Unavailable, TimeoutError) as error:
            known.count = None
            known.rest_until = self._now() + REST_SECONDS
            _log.warning(
                "the length of queue %s is not known, nor where its jobs stand: %s; asked again "
                "in %d s",
                *(queue, error or "no answer", REST_SECONDS),
            )
        finally:
            known.look = None
        return known.count

    def _of(self, model: str) -> _Known:
        known = self._known.get(model)
        if known is None:
            known = self._known.setdefault(model, _Known(self._begun_at))
        return known

    def _now(self) -> float:
        return self._clock().timestamp()


def _reply(record: Mapping[str, Any], now: float) -> Reply | None:
    """What the record tells of a worker; None where none had a part in it."""
    timing, error = record["timing"], record.get("error") or {}
    if timing["batch_size"] is None or error.get("code") == FailureCode.DEAD_LETTERED:
        return None
    # Both times are by the worker's clock, which may be off: only their difference counts.
    started_at, finished_at = (
        datetime.fromisoformat(record[name]) for name in ("started_at", "finished_at")
    )
    return Reply(
        at_seconds=now,
        held_seconds=(finished_at - started_at).total_seconds(),
        inference_seconds=float(timing["inference_ms"]) / 1000,
        batch_size=int(timing["batch_size"]),
    )
