"""What happens to the jobs of one model, from message to settlement.

    accept     receiver thread   decode, hold the lease
    _prepare   a few threads     still wanted? fetch, decode, preprocess
    _run       device thread     one batch through the model
    _answer    reply threads     store a large result, post the reply
    _settle    any               the receiver thread ends the message by the error's class

This is the only place that catches whatever a model's code, a library or we ourselves raise: the
step ends in the error that it is, and the message is settled by the table in `errors`.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from contract.catalogue import Model
from contract.codec import decode_request, encode_reply
from contract.errors import ContractError
from contract.fields import Json
from contract.messages import (
    JobError,
    JobRequest,
    Payload,
    PayloadUrl,
    ReplyQueue,
    ReplyWebhook,
)
from worker.errors import (
    Cancelled,
    Expired,
    Fault,
    HandedBack,
    InferenceFailed,
    LockLost,
    NotWaitedFor,
    Poison,
    Settlement,
    TooLate,
    UnreadableMessage,
    WorkerError,
    WorkerFault,
    WrongModel,
)
from worker.inference.batcher import Batcher, BatchQueue
from worker.inference.runner import Runner
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import Payloads
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.receiver import Ending, Receiver
from worker.messages.servicebus import Delivery, QueueLink, utc_now
from worker.observed.tracing import start_span
from worker.outcomes.outlets import Outlets
from worker.outcomes.progress import Reporter
from worker.outcomes.replies import Replies
from worker.remote.backoff import Backoff
from worker.remote.reach import Reach
from worker.settings import Endpoint

_log = logging.getLogger(__name__)

_PREPARING_THREADS = 4
_FETCHING_THREADS = 8
_REPLYING_THREADS = 16
# One batch runs while the next is made ready; what awaits its reply or settlement comes on top.
_BATCHES_AHEAD = 2
_BATCHES_HELD = 4
# How long a job waits for the gateway to say whether it is still wanted.
_PATIENCE_SECONDS = 30.0

Step = Callable[[Job], None]


@dataclass(frozen=True, slots=True)
class Services:
    """What the consumers of all models share."""

    service_bus: Endpoint
    leases: Leases
    payloads: Payloads
    replies: Replies
    outlets: Outlets
    fetcher: Fetcher
    load: Callable[[Model], Runner]


class Consumer:
    """One model's queue. `run_receiver` and `run_device` are its two threads."""

    def __init__(self, model: Model, services: Services) -> None:
        self._model = model
        self._services = services
        link = QueueLink(services.service_bus, model.queue)
        reach = Reach(f"Service Bus queue {model.queue}")
        self.receiver = Receiver(link, services.leases, reach)
        self._renewing = QueueLink(services.service_bus, model.queue)
        self._batches = BatchQueue[Job](Batcher(model.max_batch_size, model.max_wait_ms / 1000))
        self._preparing = ThreadPoolExecutor(_PREPARING_THREADS, f"{model.name}-prepare")
        self._fetching = ThreadPoolExecutor(_FETCHING_THREADS, f"{model.name}-fetch")
        self._replying = ThreadPoolExecutor(_REPLYING_THREADS, f"{model.name}-reply")
        self._reporter = Reporter(services.replies.report)
        self._runner: Runner | None = None
        self._stopping = threading.Event()
        self._held: set[Delivery] = set()
        self._not_run: set[Job] = set()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def is_loaded(self) -> bool:
        """Whether the model can be called."""
        return self._runner is not None

    @property
    def held_count(self) -> int:
        """How many messages are received and not settled."""
        return len(self._held)

    def stop(self) -> None:
        """Drain: receive nothing more, hand back what has not started, finish what runs."""
        self._stopping.set()
        self.receiver.stop()
        for job in self._batches.close():
            self._end(job, HandedBack("this worker is leaving"))

    def run_receiver(self) -> None:
        """The thread that receives and settles, until drained."""
        while not self.receiver.is_finished:
            try:
                self.receiver.turn(self)
            except Exception:  # noqa: BLE001  the process's edge: this thread must outlive a defect
                _log.exception("%s: the receiver failed, and goes on", self.name)
                self.receiver.close()
                self._stopping.wait(1.0)
        self.receiver.close()

    def run_device(self) -> None:
        """The thread that loads the model and runs it, until stopped."""
        self._load()
        if self._model.reports_progress:
            self._reporter.start()
        while batch := self._batches.take():
            self._run(batch)

    def has_room(self) -> bool:
        """See Intake: nothing is received that could not soon be run."""
        size = self._model.max_batch_size
        return (
            self.is_loaded
            and len(self._not_run) < size * _BATCHES_AHEAD
            and len(self._held) < size * _BATCHES_HELD
        )

    def accept(self, delivery: Delivery) -> None:
        """See Intake."""
        self._held.add(delivery)
        try:
            job = self._open(delivery)
            self._not_run.add(job)
            # Strangers' servers may be slow: they hold up nobody but one another.
            fetches = isinstance(job.request.input, PayloadUrl)
            pool = self._fetching if fetches else self._preparing
            pool.submit(self._step, job, self._prepare, InferenceFailed)
        except WorkerError as error:
            self._settle(_ending(delivery, error), error.code)
        except Exception as error:  # noqa: BLE001  the edge: whatever a foreign message brings about
            _log.exception("%s: message %s failed", self.name, delivery.message_id)
            self._settle(_ending(delivery, WorkerFault(type(error).__name__)), "worker-fault")

    def settled(self, delivery: Delivery) -> None:
        """See Intake."""
        self._held.discard(delivery)

    def _open(self, delivery: Delivery) -> Job:
        """Read the message, refuse what can never succeed, and hold the lease of the rest."""
        if self._stopping.is_set():
            raise HandedBack("this worker is leaving")
        if delivery.body is None:
            raise UnreadableMessage("the message has no body of bytes, or one that is too large")
        try:
            request = decode_request(delivery.body)
        except ContractError as error:
            raise UnreadableMessage(str(error), error.code) from None
        if request.model != self._model.name:
            raise WrongModel(f"{request.model!r} is not the model of queue {self._model.queue}")
        self._services.outlets.check(request.reply_to)
        now = utc_now()
        if now >= request.deadline and not _is_told(request):
            raise Expired("the deadline passed before the job was received")
        lease = self._services.leases.hold(
            delivery,
            self._renew,
            delivery.lock_seconds(now),
            time.monotonic() + (request.deadline - now).total_seconds(),
        )
        span = start_span(self.name, self._model.queue, request.job_id, delivery.properties)
        return Job(request, delivery, lease, span)

    def _renew(self, delivery: Delivery, timeout_seconds: float) -> float:
        expires_at = self._renewing.renew(delivery, timeout_seconds)
        return (expires_at - utc_now()).total_seconds()

    def _prepare(self, job: Job) -> None:
        if self._stopping.is_set():
            raise HandedBack("this worker is leaving")
        request, services = job.request, self._services
        if job.is_expired(utc_now()):
            raise _expired(job, "the deadline passed before the job was prepared")
        self._ask_patiently(job)
        runner, given = self._runner, request.input
        assert runner is not None, "nothing is received before the model is loaded"
        if isinstance(given, PayloadUrl):
            job.item = runner.prepare(*services.fetcher.fetch(given, self._model))
        elif runner.reads_files:
            file = services.payloads.open(given, self._model, job.lease.wait)
            job.item = runner.prepare_file(file, given.media_type)
        else:
            data = services.payloads.fetch(given, self._model, job.lease.wait)
            job.item = runner.prepare(data, given.media_type)
        if not self._batches.put(job):
            raise HandedBack("this worker is leaving")

    def _ask_patiently(self, job: Job) -> None:
        """Raise NotWaitedFor where the job is not wanted any more.

        While the gateway is away no result could be delivered either, so waiting for its answer
        costs little, and running jobs that were cancelled meanwhile a lot.
        """
        backoff, ends_at = Backoff(), time.monotonic() + _PATIENCE_SECONDS
        while (is_wanted := self._is_wanted(job)) is None and time.monotonic() < ends_at:
            if self._stopping.is_set():
                raise HandedBack("this worker is leaving")
            if not job.lease.wait(backoff.next()):
                raise LockLost("the lock was lost before the job ran")
        if is_wanted is False:
            raise NotWaitedFor("nobody waits for this job any more")

    def _is_wanted(self, job: Job) -> bool | None:
        """Ask the gateway, unless it was asked lately or the job is young; None: cannot tell."""
        url, now = job.request.reply_url, utc_now()
        if url is None or not job.is_stale(now):
            return True
        is_wanted = self._services.replies.is_wanted(url)
        if is_wanted is not None:
            job.asked_at = now
        return is_wanted

    def _run(self, jobs: list[Job]) -> None:
        """Run a batch; where it raises, its jobs one by one, so that only the bad one fails."""
        jobs = [job for job in jobs if self._is_worth_running(job)]
        if not jobs:
            return
        assert self._runner is not None, "nothing is received before the model is loaded"
        started_at, begun = utc_now(), time.perf_counter()
        try:
            contexts = [job.context for job in jobs if job.context is not None]
            results = self._runner.run([job.item for job in jobs], contexts)
        except Exception as error:  # noqa: BLE001  the edge: a model's code may raise anything
            if len(jobs) == 1:
                self._end(jobs[0], self._failure(jobs[0], error, InferenceFailed))
                return
            _log.warning("%s: a batch of %d raised, running its jobs singly", self.name, len(jobs))
            for job in jobs:
                self._run([job])
            return
        inference_ms = (time.perf_counter() - begun) * 1000
        for job, result in zip(jobs, results, strict=True):
            job.ran(started_at, inference_ms, len(jobs))
            self._has_run(job)
            self._replying.submit(self._step, job, partial(self._answer, result), WorkerFault)

    def _is_worth_running(self, job: Job) -> bool:
        if job.lease.is_lost:
            self._end(job, LockLost("the lock was lost before the job ran"))
        elif job.is_expired(utc_now()):
            self._end(job, _expired(job, "the deadline passed before the job ran"))
        elif self._model.reports_progress:
            return self._begin(job)
        elif self._is_wanted(job) is False:
            # Cancelled while a batch before it kept the device busy.
            self._end(job, NotWaitedFor("nobody waits for this job any more"))
        else:
            return True
        return False

    def _begin(self, job: Job) -> bool:
        """Tell that a long job starts; False where it ends before it has begun."""
        if job.context is None:
            job.context = self._reporter.begin(job)
        if job.context.is_cancelled:
            self._end(job, Cancelled("the job was cancelled before it ran"))
        return not job.context.is_cancelled

    def _answer(self, result: Json, job: Job) -> None:
        if job.context is not None:
            job.context.finish()
        self._send(self._services.payloads.pack(job.request.job_id, result, job.lease.wait), job)

    def _send(self, outcome: Payload | JobError, job: Job) -> None:
        """Reply, and only then complete: a crash in between costs a question, not an answer."""
        if job.lease.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if reply_to := job.request.reply_to:
            body = encode_reply(job.reply(outcome))
            self._services.outlets.post(reply_to, body, job.request.job_id, job.lease.wait)
        code = outcome.code if isinstance(outcome, JobError) else "succeeded"
        self._settle_job(job, Ending(job.delivery, job.lease, Settlement.COMPLETE), code)

    def _step(self, job: Job, step: Step, unexpected: type[WorkerError]) -> None:
        """Run one step of a job; whatever it raises ends the job in its own way."""
        try:
            step(job)
        except Exception as error:  # noqa: BLE001  the edge: no job may hang for an unforeseen error
            self._end(job, self._failure(job, error, unexpected))

    def _failure(self, job: Job, error: Exception, unexpected: type[WorkerError]) -> WorkerError:
        if isinstance(error, WorkerError):
            return error
        _log.error("%s: job %s raised", self.name, job.request.job_id, exc_info=error)
        return unexpected(f"the model {self.name} failed on this input")

    def _end(self, job: Job, error: WorkerError, *, has_stopped: bool = False) -> None:
        self._has_run(job)
        if isinstance(error, Fault):
            send = partial(self._send, error.to_job_error())
            self._replying.submit(self._step, job, send, WorkerFault)
        elif isinstance(error, Cancelled) and not has_stopped:
            stop = partial(self._stopped, error)
            self._replying.submit(self._step, job, stop, WorkerFault)
        else:
            how = LockLost("") if job.lease.is_lost else error
            self._settle_job(job, _ending(job.delivery, how, job), how.code)

    def _stopped(self, error: Cancelled, job: Job) -> None:
        """Tell the gateway that a cancelled job has stopped, so that it need not wait longer."""
        if job.context is not None:
            job.context.stopped()
        self._end(job, error, has_stopped=True)

    def _has_run(self, job: Job) -> None:
        job.item = None
        if job.context is not None:
            self._reporter.end(job.context)
        self._not_run.discard(job)
        self.receiver.wake()

    def _settle_job(self, job: Job, ending: Ending, code: str) -> None:
        job.span.end(code, {"loosely.batch_size": job.batch_size})
        self._settle(ending, code, job.span.trace_id)

    def _settle(self, ending: Ending, code: str, trace_id: str = "-") -> None:
        _log.info(
            "%s: job %s %s, %s; delivery %d, trace %s %s",
            *(self.name, ending.delivery.message_id, code, ending.how),
            *(ending.delivery.delivery_count + 1, trace_id, ending.description),
        )
        self.receiver.settle(ending)

    def _load(self) -> None:
        backoff, begun = Backoff(first_seconds=1.0, limit_seconds=60.0), time.monotonic()
        while not self._stopping.is_set():
            try:
                self._runner = self._services.load(self._model)
            except Exception:  # noqa: BLE001  the edge: a model's code may raise anything
                _log.exception("%s: the model cannot be loaded, trying on", self.name)
                self._stopping.wait(backoff.next())
            else:
                _log.info("%s: loaded in %.1f s", self.name, time.monotonic() - begun)
                self.receiver.wake()
                return


def _is_told(request: JobRequest) -> bool:
    """Whether the worker is who tells of an expiry: a gateway knows by itself."""
    return isinstance(request.reply_to, ReplyQueue | ReplyWebhook)


def _expired(job: Job, text: str) -> WorkerError:
    return TooLate(text) if _is_told(job.request) else Expired(text)


def _ending(delivery: Delivery, error: WorkerError, job: Job | None = None) -> Ending:
    reason = error.reason if isinstance(error, Poison) else error.code
    return Ending(delivery, job.lease if job else None, error.settlement, reason, str(error))
