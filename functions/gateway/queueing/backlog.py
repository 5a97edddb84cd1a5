"""What this process knows of each model: the lengths of its queues, its pace, its signs of life.

The lengths come from the queues themselves; the rest is what passes through this process, and is
lost with it. Nothing here may fail a request: what cannot be had is None. A submit never waits for
a look at a queue, it only sets one off.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contract.catalogue import Model
from contract.messages import JobReply
from gateway.clock import Clock
from gateway.queueing.line import Lengths, Line
from gateway.queueing.pace import Pace, Reply
from gateway.queueing.places import Phase, Place, seems_cold, wait_seconds
from gateway.queueing.priority import Priority, queue_of


@dataclass(frozen=True, slots=True)
class Outlook:
    """How many jobs a model has, and how long one of normal priority that came now would take."""

    length: int | None
    wait_seconds: float | None


@dataclass(slots=True)
class _Known:
    """What is known of one model."""

    quiet_since: float
    lines: Mapping[Priority, Line]
    pace: Pace = field(default_factory=Pace)


class Backlog:
    """The backlogs of all models, as this process knows them."""

    def __init__(self, lengths: Lengths, clock: Clock) -> None:
        self._lengths = lengths
        self._clock = clock
        self._begun_at = self._now()
        self._known: dict[str, _Known] = {}

    def accepted(self, model: str, created_at: datetime, priority: Priority) -> None:
        """A job was accepted here."""
        self._of(model).lines[priority].came(created_at.timestamp())

    def heard(self, model: str) -> None:
        """A worker of this model gave a sign of life."""
        self._of(model).quiet_since = self._now()

    def replied(self, model: str, priority: Priority, reply: JobReply) -> None:
        """A worker's reply was taken here."""
        known, now = self._of(model), self._now()
        known.pace = known.pace.after(
            Reply(
                at_seconds=now,
                # By the worker's clock, which may be off: only the difference counts.
                held_seconds=(reply.finished_at - reply.started_at).total_seconds(),
                inference_seconds=reply.timing.inference_ms / 1000,
                batch_size=reply.timing.batch_size,
            )
        )
        known.lines[priority].went()
        known.quiet_since = now

    async def place(self, model: Model, created_at: datetime, priority: Priority) -> Place:
        """Where a job that has not begun stands."""
        known = self._of(model.name)
        created = created_at.timestamp()
        own = known.lines[priority].position(queue_of(model, priority), created)
        before = [known.lines[each].length(queue_of(model, each)) for each in priority.first]
        jobs = _sum(await asyncio.gather(own, *before) if before else [await own])
        is_cold = seems_cold(max(known.quiet_since, created), self._now(), known.pace)
        phase = Phase.COLD_STARTING if is_cold else Phase.QUEUED
        if jobs is None:
            return Place(phase=phase)
        # How long a worker takes to come is not known, so neither is how long the job does.
        eta = None if is_cold else wait_seconds(jobs, known.pace.seconds_per_job)
        return Place(jobs, eta, phase)

    async def outlook(self, model: Model) -> Outlook:
        """What a caller may want to know before a submit."""
        known = self._of(model.name)
        lengths = await asyncio.gather(
            *(line.length(queue_of(model, priority)) for priority, line in known.lines.items())
        )
        normal = lengths[0]
        wait = None if normal is None else wait_seconds(normal + 1, known.pace.seconds_per_job)
        return Outlook(_sum(lengths), wait)

    def excess_seconds(
        self, model: Model, deadline_seconds: float, priority: Priority
    ) -> float | None:
        """By how much a job that came now would miss its deadline; None if it may keep it.

        By the more favourable estimate, and never without knowing both the lengths and the pace.
        """
        known = self._of(model.name)
        least = known.pace.least_seconds_per_job
        if not least:
            return None
        jobs = _sum(
            [
                known.lines[each].length_at_hand(queue_of(model, each))
                for each in (priority, *priority.first)
            ]
        )
        excess = (jobs + 1) * least - deadline_seconds if jobs is not None else 0
        return excess if excess > 0 else None

    def _of(self, model: str) -> _Known:
        known = self._known.get(model)
        if known is None:
            lines = {priority: Line(self._lengths, self._clock) for priority in Priority}
            known = self._known.setdefault(model, _Known(self._begun_at, lines))
        return known

    def _now(self) -> float:
        return self._clock().timestamp()


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
