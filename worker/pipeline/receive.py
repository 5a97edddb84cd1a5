"""Decide how many messages to receive, and turn each message into a job."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from contract.catalogue import ModelEntry
from contract.errors import ContractError
from contract.messages import (
    DeliveryMarks,
    JobError,
    JobReply,
    JobRequest,
    Payload,
    ReplyQueue,
    ReplyTo,
    Timing,
    decode_request,
    marks_to_json,
)
from contract.names import low_priority_queue
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import LockRenewer, MessageLock, Renew, SettleRequest
from worker.clock import utc_now
from worker.errors import (
    Expired,
    ExpiredForProducer,
    LockLost,
    TooManyFailures,
    UnreadableMessage,
    WorkerError,
    WrongModel,
)
from worker.inference.model_checks import ModelKind
from worker.inputs.memory import MemoryShare
from worker.pipeline.progress import JobContext
from worker.processes.setup import worker_name
from worker.streams.writer import OpenStream
from worker.telemetry.recording import JobSpan, ModelTelemetry, log_fields

_log = logging.getLogger(__name__)

NO_RESULTS: Final[Mapping[str, Payload]] = MappingProxyType({})
"""The named results of a job that has none."""

# A job that has waited this long may have been cancelled since it was last checked.
STALE_AFTER_SECONDS = 2.0

# One batch runs while the next batch is prepared. Two further batches may wait for their replies or
# their settlement.
_BATCHES_TO_RUN = 2
_BATCHES_HELD = 4
# Besides the item that runs, an item model has only so many prepared items as run within this time.
# Other workers can take all others.
_LOOK_AHEAD_SECONDS = 1.0
# The share of the last item in the average time that items run.
_LAST_SHARE = 0.5
# A message that waits to be abandoned needs no place in a batch, but it needs a lock and memory.
_MAX_POSTPONED_COUNT = 64
# Jobs with inputs from other servers, and jobs with large inputs, are offloaded. They do not occupy
# places in a batch before their inputs are decoded.
MAX_OFFLOADED_COUNT = 64


@dataclass(slots=True, eq=False)
class ReceivedJob:
    """One received job, with the values that the steps store during processing.

    Attributes:
        item: The prepared input; None before the job is prepared and after inference.
        cost: The size of the prepared input, in the model's own unit.
        is_wanted: The gateway's last answer at `checked_at`; True before its first answer.
        context: The context of a model that reports progress; None before the job runs.
        overrun_count: How many jobs ran together, if they exceeded `max_run_seconds`; otherwise 0.
        ran_alone: Whether the process ran no other job while the device ran this job. If the engine
            of the model died, whether this engine ran no other job.
    """

    request: JobRequest
    delivery: LockedMessage
    lock: MessageLock
    span: JobSpan
    item: Any = None
    cost: float = 1.0
    memory: MemoryShare | None = None
    checked_at: datetime | None = None
    is_wanted: bool = True
    context: JobContext | None = None
    started_at: datetime | None = None
    inference_ms: float = 0.0
    batch_size: int = 1
    worker: str | None = None
    device: str | None = None
    received_at: datetime = field(default_factory=utc_now)
    note_blob: str | None = None
    overrun_count: int = 0
    traceback: str | None = None
    ran_alone: bool = False
    _received: float = field(default_factory=time.perf_counter)
    _marks_ms: dict[str, Any] = field(default_factory=dict)

    @property
    def attempt(self) -> int:
        """Return how many times the message was delivered, including this delivery."""
        return self.delivery.delivery_count + 1

    @property
    def queued_since(self) -> datetime:
        """Return when the message was put into the queue."""
        return self.delivery.enqueued_at or self.request.created_at

    def release_input(self) -> None:
        """Drop the prepared input, and release the memory that is reserved for it."""
        self.item = None
        if self.memory is not None:
            self.memory.release()

    def mark_step(self, step: str, at: float | None = None) -> None:
        """Store when the job reached a step, a `_ms` field of `DeliveryMarks`."""
        self._marks_ms[step] = self.age_ms(at)

    def age_ms(self, at: float | None = None) -> float:
        """Return the ms from receipt until `at`, a value of `time.perf_counter`, or until now."""
        seconds = (time.perf_counter() if at is None else at) - self._received
        return round(seconds * 1000, 3)

    @property
    def stream(self) -> OpenStream | None:
        """Return the job's stream; None if it has none, or before it runs."""
        return None if self.context is None else self.context.stream

    def marks(self) -> DeliveryMarks:
        """Return the steps that the job has reached in this worker, with their times."""
        if (stream := self.stream) is not None:
            if stream.first_chunk_at is not None:
                self.mark_step("first_chunk_ms", stream.first_chunk_at)
                self._marks_ms["chunks"] = stream.chunk_count
            self._marks_ms["stream_lost"] = stream.is_lost
        return DeliveryMarks(
            self.received_at,
            self.delivery.enqueued_at,
            self.worker,
            self.device,
            **self._marks_ms,
        )

    def record_run(self, started_at: datetime, inference_ms: float, batch_size: int) -> None:
        """Store when the job's batch started, how long it ran, and how many items it contained."""
        self.started_at, self.inference_ms = started_at, inference_ms
        self.batch_size = batch_size

    def check_usable(self) -> None:
        """Raise LockLost or Expired if the job's result can no longer be used."""
        if self.lock.is_lost:
            raise LockLost("the message lock was lost while the job ran")
        if self.is_expired(datetime.now(UTC)):
            raise Expired("the deadline passed while the job ran")

    def is_expired(self, now: datetime) -> bool:
        """Return whether the job's deadline has passed."""
        return now >= self.request.deadline

    def expiry_error(self, text: str) -> WorkerError:
        """Return the error that ends this job after its deadline; a producer gets a reply."""
        return ExpiredForProducer(text) if _needs_expiry_reply(self.request) else Expired(text)

    def reason_to_skip(self) -> WorkerError | None:
        """Return why a job that has not run must not run; None if it may."""
        if self.lock.is_lost:
            return LockLost("the message lock was lost before the job ran")
        if self.is_expired(utc_now()):
            return self.expiry_error("the deadline passed before the job ran")
        return None

    def is_stale(self, now: datetime) -> bool:
        """Return whether the worker must ask the gateway whether the job is still wanted.

        It asks 2 s after the last answer; before that, 2 s after the job was queued, or at once if
        the job was redelivered.
        """
        if self.request.reply_url is None:
            return False
        unchecked_seconds = (now - (self.checked_at or self.queued_since)).total_seconds()
        is_redelivered = self.checked_at is None and self.delivery.delivery_count > 0
        return is_redelivered or unchecked_seconds > STALE_AFTER_SECONDS

    def make_reply(
        self, outcome: Payload | JobError, results: Mapping[str, Payload] = NO_RESULTS
    ) -> JobReply:
        """Return the reply message with this outcome and the job's times."""
        now = datetime.now(UTC)
        started_at = self.started_at or now
        queued_ms = max(0.0, (started_at - self.queued_since).total_seconds() * 1000)
        self.mark_step("replied_ms")
        return JobReply(
            job_id=self.request.job_id,
            outcome=outcome,
            started_at=started_at,
            finished_at=now,
            timing=Timing(
                round(queued_ms, 3),
                round(self.inference_ms, 3),
                self.batch_size,
                marks_to_json(self.marks()),
            ),
            attempt=self.attempt,
            results=results,
        )


class ReceiveStep:
    """Turns the messages of one model's queues into jobs."""

    def __init__(
        self,
        model: ModelEntry,
        check_reply_address: Callable[[ReplyTo | None], None],
        locks: LockRenewer,
        telemetry: ModelTelemetry | None = None,
    ) -> None:
        self._model = model
        self._check_reply_address = check_reply_address
        self._locks = locks
        self._telemetry = telemetry or ModelTelemetry(model.name)
        self._worker = worker_name()

    def open_delivery(self, delivery: LockedMessage, renew: Renew, now: datetime) -> ReceivedJob:
        """Decode a message, start to renew the message's lock, and return the job.

        Raises Poison if the message cannot be used, Expired after its deadline, and LockLost if its
        lock expired before the message was read.
        """
        if (lock_seconds := delivery.lock_seconds(now)) <= 0:
            # This process was paused, and the message stayed in the socket's buffer meanwhile.
            raise LockLost("the message lock expired before the worker read the message")
        request = self._decode(delivery)
        self._check_reply_address(request.reply_to)
        if now >= request.deadline and not _needs_expiry_reply(request):
            raise Expired("the deadline passed before the job was received")
        lock = self._locks.start_renewal(
            delivery,
            renew,
            # The broker's clock may be ahead of ours, so the time is limited to the queue's lock
            # duration.
            min(lock_seconds, self._model.lock_seconds),
            time.monotonic() + (request.deadline - now).total_seconds(),
        )
        span = self._telemetry.start_span(self._model.queue, request.job_id, delivery)
        return ReceivedJob(request, delivery, lock, span, worker=self._worker, received_at=now)

    def check_failures(self, delivery: LockedMessage) -> None:
        """Raise TooManyFailures if the job must not run again because earlier deliveries failed.

        If `max_delivery_count` is 1, no job may run twice. Then only deliveries that ended before
        the run do not count.
        """
        history, limit = delivery.history, self._model.max_delivery_count
        unknown_count = delivery.delivery_count - history.waiting_count
        if (unknown_count if limit == 1 else history.failures) < limit:
            return
        raise TooManyFailures(
            f"{history.failed_count} deliveries of the message failed, and in "
            f"{history.killed_count} more the worker was killed while only this job ran; "
            f"{delivery.delivery_count} deliveries in all; max_delivery_count is {limit}"
        )

    def _decode(self, delivery: LockedMessage) -> JobRequest:
        if delivery.body is None:
            raise UnreadableMessage("the message has no binary body, or its body is too large")
        try:
            request = decode_request(delivery.body)
        except ContractError as error:
            raise UnreadableMessage(str(error), error.code) from None
        if request.model != self._model.name:
            raise WrongModel(
                f"the message names the model {request.model!r}, but the queue {self._model.queue} "
                f"is for {self._model.name}"
            )
        return request


def _needs_expiry_reply(request: JobRequest) -> bool:
    return isinstance(request.reply_to, ReplyQueue)


@dataclass(slots=True)
class QueueMessages:
    """The messages of one queue that were received and are not settled.

    Those in `open` have no outcome yet. Those in `postponed` are settled after a delay. Separate
    threads prepare the jobs in `offloaded`, because their inputs are large or fetched from URLs.
    """

    held: set[LockedMessage] = field(default_factory=set)
    open: set[LockedMessage] = field(default_factory=set)
    to_run: set[ReceivedJob] = field(default_factory=set)
    postponed: set[LockedMessage] = field(default_factory=set)
    offloaded: set[ReceivedJob] = field(default_factory=set)

    @property
    def busy_count(self) -> int:
        """Return how many unsettled messages are neither postponed nor offloaded."""
        return len(self.held) - len(self.postponed) - len(self.offloaded)


class InFlight:
    """The messages of one model that this worker has received and not settled.

    For each job, the methods are called in this order: `add_delivery`, `add_job`, `start_job`,
    `finish_run`, `record_end`, `remove_delivery`. Any thread may call them.
    """

    def __init__(self, telemetry: ModelTelemetry) -> None:
        self._telemetry = telemetry
        self._queues: defaultdict[str, QueueMessages] = defaultdict(QueueMessages)
        self._jobs: dict[LockedMessage, ReceivedJob] = {}
        self._not_started: set[LockedMessage] = set()
        self._lock = threading.Lock()

    def of_queue(self, queue: str) -> QueueMessages:
        """Return the unsettled messages of one queue, which stay up to date."""
        return self._queues[queue]

    @property
    def held_count(self) -> int:
        """Return how many messages of the model were received and are not settled."""
        return sum(len(counts.held) for counts in list(self._queues.values()))

    @property
    def busy_count(self) -> int:
        """Return how many unsettled messages are neither postponed nor offloaded."""
        return sum(counts.busy_count for counts in list(self._queues.values()))

    @property
    def stream_count(self) -> int:
        """Return how many jobs that have started have a stream."""
        with self._lock:
            started = self._jobs.keys() - self._not_started
            return sum(self._jobs[each].request.stream for each in started)

    def jobs_without_outcome(self) -> list[ReceivedJob]:
        """Return the jobs for which `record_end` was not called."""
        with self._lock:
            return list(self._jobs.values())

    def needs_outcome(self, job: ReceivedJob) -> bool:
        """Return whether `record_end` was not yet called for the job."""
        with self._lock:
            return job.delivery in self._jobs

    def add_delivery(self, delivery: LockedMessage) -> None:
        """Add a message that was just received."""
        counts = self._queues[delivery.queue]
        counts.held.add(delivery)
        counts.open.add(delivery)
        waited = utc_now() - delivery.enqueued_at if delivery.enqueued_at else timedelta()
        self._telemetry.record_received(delivery.delivery_count, waited.total_seconds())

    def add_job(self, job: ReceivedJob) -> None:
        """Add a job that was created from a received message."""
        self._queues[job.delivery.queue].to_run.add(job)
        with self._lock:
            self._jobs[job.delivery] = job
            self._not_started.add(job.delivery)

    def start_job(self, job: ReceivedJob) -> bool:
        """Record that the job starts. Return False if it has started, ended or been withdrawn."""
        with self._lock:
            if job.delivery not in self._not_started:
                return False
            self._not_started.discard(job.delivery)
            return True

    def offload_job(self, job: ReceivedJob) -> None:
        """Stop counting a job against the capacity, because its preparation may take long."""
        counts = self._queues[job.delivery.queue]
        counts.offloaded.add(job)
        counts.to_run.discard(job)

    def bring_back_job(self, job: ReceivedJob) -> None:
        """Count an offloaded job against the capacity again."""
        counts = self._queues[job.delivery.queue]
        with self._lock:
            is_open = job.delivery in self._jobs
        if job in counts.offloaded and is_open:
            counts.to_run.add(job)
        counts.offloaded.discard(job)

    def waiting_with_memory(self) -> list[ReceivedJob]:
        """Return the prepared jobs that wait for the device and hold memory for a large input."""
        with self._lock:
            jobs = [self._jobs[delivery] for delivery in self._not_started]
        return [job for job in jobs if job.item is not None and job.memory and job.memory.is_large]

    def withdraw_jobs(self) -> list[ReceivedJob]:
        """Prevent all jobs that have not started from starting, and return them."""
        with self._lock:
            jobs = [self._jobs[delivery] for delivery in self._not_started]
            self._not_started.clear()
            return jobs

    def finish_run(self, job: ReceivedJob) -> None:
        """Record that the job no longer needs the device. A second call does nothing."""
        self._queues[job.delivery.queue].to_run.discard(job)
        self._queues[job.delivery.queue].offloaded.discard(job)

    def record_end(self, request: SettleRequest, code: str, job: ReceivedJob | None = None) -> bool:
        """Record how the work on a message ended, in metrics, traces and logs.

        `code` is `succeeded` or the code of an error. Only the first call for a message has an
        effect, and returns True.
        """
        delivery = request.delivery
        counts = self._queues[delivery.queue]
        with self._lock:
            if delivery not in counts.open:
                return False
            counts.open.discard(delivery)
            self._jobs.pop(delivery, None)
            self._not_started.discard(delivery)
        if request.delay_seconds:
            counts.postponed.add(delivery)
        self._telemetry.record_outcome(code)
        if job is not None:
            job.span.end_span(code, {"loosely.batch_size": job.batch_size})
            queued = job.received_at - job.queued_since
            self._telemetry.record_stream(queued.total_seconds(), job.marks())
        model, job_id = self._telemetry.model, delivery.message_id
        trace_id = job.span.trace_id if job else "-"
        with log_fields(job_id=job_id, model=model, trace_id=trace_id):
            _log.info(
                "%s: job %s ended with the outcome %s; "
                "settlement %s, delivery %d, trace id %s, error description %r",
                *(model, job_id, code, request.settlement, delivery.delivery_count + 1),
                *(trace_id, request.description),
            )
        return True

    def remove_delivery(self, delivery: LockedMessage, *, in_time: bool) -> None:
        """Remove a settled message. `in_time` is False if its lock was lost before."""
        counts = self._queues[delivery.queue]
        counts.postponed.discard(delivery)
        counts.held.discard(delivery)
        if not in_time:
            self._telemetry.lock_losses.inc()


class Capacity:
    """Computes how many more messages of one model may be received.

    Messages of low priority never reduce the capacity for normal priority. `admits` must not block.
    """

    def __init__(
        self,
        admits: Callable[[], bool],
        in_flight: InFlight,
        model: ModelEntry,
        kind: Callable[[], ModelKind | None],
    ) -> None:
        self._admits = admits
        self._model = model
        self._kind = kind
        # The average time that one item of an item model runs; None before the first item.
        self._item_seconds: float | None = None
        self._normal = in_flight.of_queue(model.queue)
        self._low = in_flight.of_queue(low_priority_queue(model.queue))

    def normal_count(self) -> int:
        """Return how many messages of normal priority may be received now."""
        return self._remaining(self._normal)

    def low_count(self) -> int:
        """Return how many messages of low priority may be received now."""
        return self._remaining(self._normal, self._low)

    def _remaining(self, *queues: QueueMessages) -> int:
        if not self._admits():
            return 0
        remaining = min(
            self._to_run_count() - sum(len(each.to_run) for each in queues),
            self._held_count() - sum(each.busy_count for each in queues),
            _MAX_POSTPONED_COUNT - sum(len(each.postponed) for each in queues),
            MAX_OFFLOADED_COUNT - sum(len(each.offloaded) for each in queues),
        )
        return max(0, remaining)

    def note_item(self, seconds: float) -> None:
        """Record how long an item of an item model has run."""
        before = seconds if self._item_seconds is None else self._item_seconds
        self._item_seconds = before + _LAST_SHARE * (seconds - before)

    def _held_count(self) -> int:
        """Return how many jobs may be held: those that may run, and as many that have run."""
        if self._kind() is ModelKind.CONCURRENT:
            return self._model.max_concurrent_jobs * (_BATCHES_HELD // _BATCHES_TO_RUN)
        return self._model.max_batch_size * _BATCHES_HELD

    def _to_run_count(self) -> int:
        """Return how many jobs may run or wait to run.

        A batch model has two batches. An item model has one item, and those that run within a
        second. A concurrent model has only those that it may run now.
        """
        kind = self._kind()
        if kind is ModelKind.CONCURRENT:
            return self._model.max_concurrent_jobs
        most_count = self._model.max_batch_size * _BATCHES_TO_RUN
        if kind is not ModelKind.ITEM:
            return most_count
        if self._item_seconds is None:
            return 1
        return min(1 + int(_LOOK_AHEAD_SECONDS / max(self._item_seconds, 1e-6)), most_count)
