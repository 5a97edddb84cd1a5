"""A job as the worker holds it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contract.messages import JobError, JobReply, JobRequest, Payload, Timing
from worker.errors import Expired, LockLost
from worker.messages.lease import Lease
from worker.messages.servicebus import Delivery
from worker.observed.tracing import JobSpan
from worker.outcomes.context import JobContext

# A job that waited this long may have been given up meanwhile.
STALE_AFTER_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Job:
    """One request with its message, its lease and, as it goes on, what has become of it.

    `item` is the prepared input, `cost` what it takes of a batch; `asked_at` is when the gateway
    last said that the job is still wanted; `context` is there once a long job is about to run;
    `started_at`, `inference_ms` and `batch_size` tell of the run.
    """

    request: JobRequest
    delivery: Delivery
    lease: Lease
    span: JobSpan
    item: Any = None
    cost: float = 1.0
    asked_at: datetime | None = None
    context: JobContext | None = None
    started_at: datetime | None = None
    inference_ms: float = 0.0
    batch_size: int = 1

    def ran(self, started_at: datetime, inference_ms: float, batch_size: int) -> None:
        """The model has run on it, in a batch of this size."""
        self.started_at, self.inference_ms = started_at, inference_ms
        self.batch_size = batch_size

    @property
    def attempt(self) -> int:
        """Which run of the job this is, from 1."""
        return self.delivery.delivery_count + 1

    @property
    def queued_since(self) -> datetime:
        """When the message reached the queue."""
        return self.delivery.enqueued_at or self.request.created_at

    def check(self) -> None:
        """Raise LockLost or Expired where a result would come too late."""
        if self.lease.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if self.is_expired(datetime.now(UTC)):
            raise Expired("the deadline passed while the job ran")

    def is_expired(self, now: datetime) -> bool:
        """Whether the deadline has passed."""
        return now >= self.request.deadline

    def is_stale(self, now: datetime) -> bool:
        """Whether it is worth asking if anybody still waits for this job.

        A job that was cancelled in its first moments may still run: asking for each would cost
        all of them what it saves a few. Of a producer's job nobody knows.
        """
        if self.request.reply_url is None:
            return False
        unheard_seconds = (now - (self.asked_at or self.queued_since)).total_seconds()
        is_new = self.asked_at is None and self.delivery.delivery_count > 0
        return is_new or unheard_seconds > STALE_AFTER_SECONDS

    def reply(self, outcome: Payload | JobError) -> JobReply:
        """The reply that tells this outcome."""
        now = datetime.now(UTC)
        started_at = self.started_at or now
        queued_ms = max(0.0, (started_at - self.queued_since).total_seconds() * 1000)
        return JobReply(
            job_id=self.request.job_id,
            outcome=outcome,
            started_at=started_at,
            finished_at=now,
            timing=Timing(round(queued_ms, 3), round(self.inference_ms, 3), self.batch_size),
            attempt=self.attempt,
        )
