"""Estimate the positions of queued jobs, and how long jobs will wait.

The estimates are computed from the lengths of the queues and the times of the replies.

Throughput. For each model, two means are computed, in seconds per job. Older replies have less
weight in these means:

    busy time     the time since the previous reply, or how long the worker had the job,
                  whichever is shorter: the reciprocal of the throughput of all workers if many jobs
                  are queued, or else the time that one job takes
    device time   the time of a batch on the device, divided by the number of jobs in the batch

A process knows only the replies that it receives. If n instances of the app receive the replies of
a model, the busy time in each instance is up to n times too long. The device time is correct.

Position. The broker reports the length of a queue, but not the position of a message. Queues are
first in, first out. Therefore a job's position is the length minus the number of later jobs that
this process has accepted. Because of jobs that other instances have accepted later, it can be too
high, but never too low.

Each process counts the messages in a queue at most once in FRESH_SECONDS, because a count on
Service Bus costs ten of the thousand credits that a Standard namespace has for each second. If a
value is unknown, the estimate is None, and the request does not fail. The submission of a job may
start a count, but never waits for its result.
"""

import asyncio
import logging
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from typing_extensions import TypedDict

from contract.catalogue import ModelEntry, Priority, queue_of
from contract.messages import JobReply
from gateway.brokers.port import MessageCounts, Queues
from gateway.clock import Clock
from gateway.errors import NoAnswer, Unavailable
from gateway.queues.model_states import ModelStates


class JobQueue(TypedDict):
    """The position of a job in its queue, and its estimated wait. An unknown value is null.

    `phase` is `cold_starting` while no worker seems to run, and `model_broken` while the workers
    cannot load the model. It is `share` while the job waits for its tenant's share of the model;
    then the position is that among the tenant's jobs.
    """

    position: int | None
    eta_seconds: float | None
    phase: Literal["queued", "cold_starting", "model_broken", "share"] | None


NO_POSITION: Final[JobQueue] = {"position": None, "eta_seconds": None, "phase": None}

DECAY: Final = 0.97
"""The factor by which each new reply reduces the weight of all older replies in `Throughput`."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """The throughput of a model, computed from the replies that this process has received.

    Both times are sums in which older replies have less weight. `weight` is the sum of the weights.
    """

    weight: float = 0.0
    busy_seconds: float = 0.0
    device_seconds: float = 0.0
    last_reply_at_seconds: float | None = None

    @property
    def seconds_per_job(self) -> float | None:
        """The mean busy time per job; None before a reply."""
        return self.busy_seconds / self.weight if self.weight else None

    @property
    def least_seconds_per_job(self) -> float | None:
        """The mean busy or device time per job, whichever is shorter; None before a reply."""
        if not self.weight:
            return None
        return min(self.busy_seconds, self.device_seconds) / self.weight

    def after(
        self, at_seconds: float, held_seconds: float, inference_seconds: float, batch_size: int
    ) -> "Throughput":
        """Return the throughput with a reply that arrived at `at_seconds`.

        The worker had the job for `held_seconds`. Its batch ran for `inference_seconds`.
        """
        gap = held = _finite_seconds(held_seconds)
        if self.last_reply_at_seconds is not None:
            # The difference is negative if the clock was set back.
            gap = max(0.0, at_seconds - self.last_reply_at_seconds)
        cost = _finite_seconds(inference_seconds) / max(1, batch_size)
        return Throughput(
            self.weight * DECAY + 1.0,
            self.busy_seconds * DECAY + min(gap, held),
            self.device_seconds * DECAY + cost,
            at_seconds,
        )


def _finite_seconds(value: float) -> float:
    # The value was sent by a worker and may be wrong.
    return max(0.0, value) if math.isfinite(value) else 0.0


QUIET_SECONDS: Final = 5.0
"""A model counts as cold starting if no worker of it called the gateway for this many seconds."""

QUIET_JOBS: Final = 4
"""The time of this many jobs is used instead if it is longer, because the workers run jobs."""

BROKEN_AFTER_SECONDS: Final = 1.0
"""After this time without a call of a worker, the heartbeats show whether the model is broken."""


@dataclass(frozen=True, slots=True)
class LengthSample:
    """The numbers of messages at a time, and how many replies this process had received by then."""

    counts: MessageCounts
    at_seconds: float
    replies: int


def length_now(sample: LengthSample, arrivals: Sequence[float], replies: int) -> int:
    """Return the length in a sample, plus the later arrivals, minus the later replies.

    `arrivals` has the sorted creation times of the jobs that this process has accepted, in seconds.
    `replies` is how many replies this process has received.
    """
    later = len(arrivals) - bisect_right(arrivals, sample.at_seconds)
    return max(0, sample.counts.active + later - max(0, replies - sample.replies))


def position(
    sample: LengthSample, arrivals: Sequence[float], replies: int, created_at_seconds: float
) -> int:
    """Return the estimated position, from 1, of a job. The arguments are those of `length_now`."""
    if created_at_seconds > sample.at_seconds:
        earlier = arrivals[: bisect_left(arrivals, created_at_seconds)]
        return length_now(sample, earlier, replies) + 1
    behind = bisect_right(arrivals, sample.at_seconds) - bisect_right(arrivals, created_at_seconds)
    return max(1, sample.counts.active - behind)


def wait_seconds(jobs: int, seconds_per_job: float | None) -> float | None:
    """Return how many seconds `jobs` jobs will probably take; None if unknown."""
    return None if seconds_per_job is None else round(jobs * seconds_per_job, 3)


def is_cold_starting(
    quiet_since_seconds: float, now_seconds: float, throughput: Throughput
) -> bool:
    """Return whether the model probably has no worker.

    `quiet_since_seconds` is when a worker of the model last called this process, or when the queued
    job was created, whichever is later.
    """
    limit_seconds = max(QUIET_SECONDS, QUIET_JOBS * (throughput.seconds_per_job or 0.0))
    return now_seconds - quiet_since_seconds >= limit_seconds


def retry_after_seconds(position: JobQueue, unknown_seconds: int, longest_seconds: int) -> int:
    """Return the Retry-After of a job: the estimated wait, or `unknown_seconds`.

    If no worker runs or can load the model, it is QUIET_SECONDS or more.
    """
    if position["eta_seconds"] is not None:
        return min(longest_seconds, max(1, math.ceil(position["eta_seconds"])))
    if position["phase"] in {"cold_starting", "model_broken"}:
        return min(longest_seconds, max(unknown_seconds, int(QUIET_SECONDS)))
    return unknown_seconds


FRESH_SECONDS: Final = 5.0
"""How long a process uses its count of a queue's messages before it counts them again."""

USABLE_SECONDS: Final = 10.0
"""The greatest age of a count of messages that may cause the refusal of a job."""

COUNT_TIMEOUT_SECONDS: Final = 2.0
# A count fails for example if the gateway does not have the access right `Manage`.
PAUSE_AFTER_FAILURE_SECONDS: Final = 10.0

MAX_ARRIVALS: Final = 10_000

_log = logging.getLogger(__name__)


class QueueStatistics:
    """Estimates the length of one queue and the positions of its jobs.

    The estimates use the last count of the messages, and this process's jobs and replies since.
    """

    def __init__(self, count: Callable[[str], Awaitable[MessageCounts]], clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._arrivals: list[float] = []
        self._replies = 0
        self._sample: LengthSample | None = None
        self._paused_until = -math.inf
        self._counting: asyncio.Task[LengthSample | None] | None = None

    def record_arrival(self, created_at_seconds: float) -> None:
        """Record that this process has accepted a job for the queue."""
        insort(self._arrivals, created_at_seconds)
        if len(self._arrivals) > MAX_ARRIVALS:
            # After this, the computed positions of older jobs are too high.
            del self._arrivals[: MAX_ARRIVALS // 2]

    def record_reply(self) -> None:
        """Record that this process has received the reply to a job of this queue."""
        self._replies += 1

    async def length(self, queue: str) -> int | None:
        """Return the estimated number of jobs in the queue; None if unknown."""
        counts = await self.counts(queue)
        return None if counts is None else counts.active

    async def counts(self, queue: str) -> MessageCounts | None:
        """Return the estimated `length`, and the counts of other messages; None if unknown."""
        count = await self._fresh_count(queue)
        if count is None:
            return None
        active = length_now(count, self._arrivals, self._replies)
        return replace(count.counts, active=active)

    async def position(self, queue: str, created_at_seconds: float) -> int | None:
        """Return the estimated position, from 1, of a job; None if unknown."""
        count = await self._fresh_count(queue)
        if count is None:
            return None
        return position(count, self._arrivals, self._replies, created_at_seconds)

    def last_length(self, queue: str) -> int | None:
        """Return the estimated number of jobs in the queue, without waiting for a new count.

        Return None if the last count is older than USABLE_SECONDS. If it is older than
        FRESH_SECONDS, start a new count in the background.
        """
        count = self._sample
        age_seconds = math.inf if count is None else self._now() - count.at_seconds
        if age_seconds > FRESH_SECONDS:
            self._start_count(queue)
        if count is None or age_seconds > USABLE_SECONDS:
            return None
        return length_now(count, self._arrivals, self._replies)

    def least_length(self, queue: str) -> int:
        """Do the same, but without a usable count return what this process knows to be queued."""
        length = self.last_length(queue)
        if length is not None:
            return length
        recent = len(self._arrivals) - bisect_left(self._arrivals, self._now() - USABLE_SECONDS)
        return max(0, min(recent, len(self._arrivals) - self._replies))

    async def _fresh_count(self, queue: str) -> LengthSample | None:
        count = self._sample
        if count is not None and self._now() - count.at_seconds <= FRESH_SECONDS:
            return count
        counting = self._start_count(queue)
        # Several requests may wait for this count, so cancelling a request must not cancel it.
        return await asyncio.shield(counting) if counting else None

    def _start_count(self, queue: str) -> asyncio.Task[LengthSample | None] | None:
        if self._counting is None:
            if self._now() < self._paused_until:
                return None
            self._counting = asyncio.get_running_loop().create_task(self._count_messages(queue))
        return self._counting

    async def _count_messages(self, queue: str) -> LengthSample | None:
        at_seconds, replies = self._now(), self._replies
        try:
            self._sample = LengthSample(await self._count(queue), at_seconds, replies)
        except (Unavailable, TimeoutError) as error:
            self._sample = None
            self._paused_until = self._now() + PAUSE_AFTER_FAILURE_SECONDS
            _log.warning(
                "the length of queue %s and the positions of its jobs are unknown: %s; the "
                "messages are counted again in %d s",
                *(queue, str(error) or "the count timed out", PAUSE_AFTER_FAILURE_SECONDS),
            )
        finally:
            self._counting = None
        return self._sample

    def _now(self) -> float:
        return self._clock().timestamp()


@dataclass(frozen=True, slots=True)
class ModelWait:
    """How many jobs of a model have not ended, and the wait of a new one with normal priority.

    An unknown value is None.
    """

    length: int | None
    wait_seconds: float | None


@dataclass(slots=True)
class _ModelStatistics:
    """The throughput and the queue statistics of one model."""

    quiet_since: float
    queues: Mapping[Priority, QueueStatistics]
    throughput: Throughput = field(default_factory=Throughput)


class WaitEstimates:
    """Estimates how long the jobs of all models wait."""

    def __init__(self, counter: Queues, clock: Clock, states: ModelStates) -> None:
        self._counter = counter
        self._clock = clock
        self._states = states
        self._begun_at = self._now()
        self._known: dict[str, _ModelStatistics] = {}
        self.silent_since: datetime | None = None
        """Since when the broker has not answered any count; None if it answers."""

    def record_accepted(self, model: str, created_at: datetime, priority: Priority) -> None:
        """Record that this process has accepted a job."""
        self._of(model).queues[priority].record_arrival(created_at.timestamp())

    def record_worker(self, model: str) -> None:
        """Record that a worker of the model has just called the gateway."""
        self._of(model).quiet_since = self._now()

    def record_reply(self, model: str, priority: Priority, reply: JobReply) -> None:
        """Record that this process has accepted this reply from a worker of the model."""
        known, now = self._of(model), self._now()
        # Both times are from the worker's clock, so the skew to our clock does not matter.
        held_seconds = (reply.finished_at - reply.started_at).total_seconds()
        timing = reply.timing
        known.throughput = known.throughput.after(
            now, held_seconds, timing.inference_ms / 1000, timing.batch_size
        )
        known.queues[priority].record_reply()
        known.quiet_since = now

    def answered_seconds(self, model: str) -> float | None:
        """Return how long ago a worker of the model called this process; None if never."""
        known = self._known.get(model)
        if known is None or known.quiet_since == self._begun_at:
            return None
        return max(0.0, self._now() - known.quiet_since)

    async def estimate_position(
        self, model: ModelEntry, created_at: datetime, priority: Priority
    ) -> JobQueue:
        """Return the position and the estimated wait of a job that has not started."""
        known = self._of(model.name)
        created = created_at.timestamp()
        own = known.queues[priority].position(queue_of(model, priority), created)
        before = [known.queues[each].length(queue_of(model, each)) for each in priority.higher]
        jobs = _sum_if_known(await asyncio.gather(own, *before) if before else [await own])
        now, quiet_since = self._now(), max(known.quiet_since, created)
        is_quiet = now - quiet_since >= BROKEN_AFTER_SECONDS
        if is_quiet and model.name in await self._states.broken():
            return {"position": jobs, "eta_seconds": None, "phase": "model_broken"}
        if is_cold_starting(quiet_since, now, known.throughput):
            return {"position": jobs, "eta_seconds": None, "phase": "cold_starting"}
        eta = None if jobs is None else wait_seconds(jobs, known.throughput.seconds_per_job)
        return {"position": jobs, "eta_seconds": eta, "phase": "queued"}

    async def estimate_wait(self, model: ModelEntry) -> ModelWait:
        """Return how long a new job of the model will wait."""
        known = self._of(model.name)
        lengths = await asyncio.gather(
            *(queue.length(queue_of(model, priority)) for priority, queue in known.queues.items())
        )
        each = known.throughput.seconds_per_job
        wait = None if lengths[0] is None else wait_seconds(lengths[0] + 1, each)
        return ModelWait(_sum_if_known(lengths), wait)

    def least_length(self, model: ModelEntry, priority: Priority) -> int:
        """Return how many jobs a queue has at least, without waiting for a count."""
        return self._of(model.name).queues[priority].least_length(queue_of(model, priority))

    def seconds_per_job(self, model: str) -> float | None:
        """Return the mean busy time per job of a model; None before a reply."""
        return self._of(model).throughput.seconds_per_job

    async def count(self, model: ModelEntry) -> dict[Priority, MessageCounts | None]:
        """Return the numbers of messages in the model's queues; None for unknown numbers."""
        queues = self._of(model.name).queues
        counts = await asyncio.gather(
            *(queue.counts(queue_of(model, priority)) for priority, queue in queues.items())
        )
        return dict(zip(queues, counts, strict=True))

    def lateness_seconds(
        self, model: ModelEntry, deadline_seconds: float, priority: Priority, held: float = 0.0
    ) -> float | None:
        """Return by how many seconds a job submitted now would miss its deadline.

        `held` is how many held jobs are let in before it. Return None if it may meet the deadline,
        or if that is unknown. The estimate is optimistic.
        """
        known = self._of(model.name)
        least = known.throughput.least_seconds_per_job
        if not least:
            return None
        jobs = _sum_if_known(
            [
                known.queues[each].last_length(queue_of(model, each))
                for each in (priority, *priority.higher)
            ]
        )
        if jobs is None and not held:
            return None
        excess = ((jobs or 0) + held + 1) * least - deadline_seconds
        return excess if excess > 0 else None

    async def _count(self, queue: str) -> MessageCounts:
        """Count the messages in a queue, and record whether the broker answers."""
        begun_at = self._clock()
        try:
            async with asyncio.timeout(COUNT_TIMEOUT_SECONDS):
                counts = await self._counter.count(queue)
        except (NoAnswer, TimeoutError):
            self.silent_since = self.silent_since or begun_at
            raise
        except Unavailable:
            self.silent_since = None
            raise
        self.silent_since = None
        return counts

    def _of(self, model: str) -> _ModelStatistics:
        if model not in self._known:
            queues = {each: QueueStatistics(self._count, self._clock) for each in Priority}
            self._known[model] = _ModelStatistics(self._begun_at, queues)
        return self._known[model]

    def _now(self) -> float:
        return self._clock().timestamp()


def _sum_if_known(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
