"""How every job ends: whatever a model's code, a library or we ourselves raise ends here.

A step of a job ends in the error that it is, and the message is settled by the table in `errors`.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from contract.messages import JobError, Payload, encode_reply
from worker.errors import (
    Cancelled,
    DeviceLost,
    Fault,
    LockLost,
    OutOfMemory,
    Poison,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.inference.lost_device import is_device_lost
from worker.jobs.ledger import Ledger
from worker.memory.errors import is_out_of_memory
from worker.messages.job import Job
from worker.messages.receiver import Ending
from worker.messages.servicebus import Delivery
from worker.observed.logs import about
from worker.observed.metrics import SUCCEEDED
from worker.outcomes.kept import Kept, KeptReplies
from worker.outcomes.outlets import Outlets
from worker.remote.backoff import delay_seconds

_log = logging.getLogger(__name__)

_REPLYING_THREADS = 16

Step = Callable[[Job], None]


class Desk(Protocol):
    """What a model's consumer does for the ends of its jobs."""

    def settle(self, ending: Ending) -> None:
        """Have the message settled by the receiver that it came from."""
        ...

    def has_run(self, job: Job) -> None:
        """The job needs the device no more: its place is free."""
        ...

    def lost_device(self, error: DeviceLost) -> None:
        """Nothing can run here any more."""
        ...


class Endings:
    """The ends of one model's jobs. Any thread; replies go out on threads of its own."""

    def __init__(
        self, name: str, ledger: Ledger, desk: Desk, outlets: Outlets, kept: KeptReplies
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._desk = desk
        self._outlets = outlets
        self._kept = kept
        self._replying = ThreadPoolExecutor(_REPLYING_THREADS, f"{name}-reply")

    def attempt(self, job: Job, step: Step, unexpected: type[WorkerError] = WorkerFault) -> None:
        """Run one step of a job; whatever it raises ends the job in its own way."""
        with about(job_id=job.request.job_id, model=self._name, trace_id=job.span.trace_id):
            try:
                step(job)
            except BaseException as error:  # noqa: BLE001  the edge: no job may hang for a surprise
                self.fail(job, error, unexpected)

    def submit(self, job: Job, step: Step, unexpected: type[WorkerError] = WorkerFault) -> None:
        """The same on a thread for replies."""
        self._replying.submit(self.attempt, job, step, unexpected)

    def fail(self, job: Job, error: BaseException, unexpected: type[WorkerError]) -> None:
        """End a job by what was raised; `unexpected` stands for what is none of our errors."""
        if not isinstance(error, WorkerError):
            with about(job_id=job.request.job_id, model=self._name, trace_id=job.span.trace_id):
                _log.error("%s: job %s raised", self._name, job.request.job_id, exc_info=error)
            error = self._named(error, unexpected)
        if isinstance(error, DeviceLost):
            self._desk.lost_device(error)
        self.end(job, error)

    def _named(self, error: BaseException, unexpected: type[WorkerError]) -> WorkerError:
        if is_device_lost(error):
            return DeviceLost(type(error).__name__)
        if is_out_of_memory(error) and issubclass(unexpected, Fault):
            return OutOfMemory("this input takes more memory than the worker has")
        return unexpected(f"the model {self._name} failed on this input")

    def end(self, job: Job, error: WorkerError) -> None:
        """End a job without a result, as the error's class says."""
        self.has_run(job)
        if isinstance(error, Fault):
            self._ledger.started(job)
            outcome = error.to_job_error()
            self.submit(job, lambda job: self.reply(job, outcome))
        elif isinstance(error, Cancelled) and job.context is not None:
            self.submit(job, lambda job: self._stopped(job, error))
        else:
            self._end_unanswered(job, error)

    def refuse(self, delivery: Delivery, error: WorkerError) -> None:
        """End a message that never became a job."""
        self._settle(_ending(delivery, error), error.code)

    def reply(self, job: Job, outcome: Payload | JobError) -> None:
        """Reply, and only then complete: a crash in between costs a question, not an answer."""
        code = outcome.code if isinstance(outcome, JobError) else SUCCEEDED
        body = encode_reply(job.reply(outcome)) if job.request.reply_to else b""
        # Before all that may fail: what is delivered again to this process need not run again.
        self._kept.keep(job.delivery, body, code)
        if job.lease.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if not self._ledger.is_open(job):
            # Given back meanwhile, so it is another worker's to answer.
            return
        self._deliver(job, body, code)

    def reply_again(self, job: Job, kept: Kept) -> None:
        """The job ran here before, and its reply or its settlement failed: do what is left."""
        _log.info("%s: job %s need not run again", self._name, job.request.job_id)
        if kept.is_delivered:
            self._complete(job, kept.code)
        else:
            self._deliver(job, kept.body, kept.code)

    def may_start(self, job: Job) -> bool:
        """Whether the job, whose turn it is, has not been handed back meanwhile."""
        return self._ledger.started(job)

    def has_run(self, job: Job) -> None:
        """The job needs the device no more: its place is free."""
        self._desk.has_run(job)

    def _deliver(self, job: Job, body: bytes, code: str) -> None:
        request = job.request
        with job.span.step("reply", calls_out=True):
            self._outlets.post(request.reply_to, body, request.job_id, job.lease.wait)
        self._kept.delivered(job.delivery)
        self._complete(job, code)

    def _complete(self, job: Job, code: str) -> None:
        self._settle(Ending(job.delivery, job.lease, Settlement.COMPLETE), code, job)

    def _stopped(self, job: Job, error: Cancelled) -> None:
        """Tell the gateway that a cancelled job has stopped, so that it need not wait longer."""
        if job.context is not None:
            job.context.stopped()
        self._end_unanswered(job, error)

    def _end_unanswered(self, job: Job, error: WorkerError) -> None:
        how = LockLost("") if job.lease.is_lost else error
        self._settle(_ending(job.delivery, how, job), how.code, job)

    def _settle(self, ending: Ending, code: str, job: Job | None = None) -> None:
        if self._ledger.ended(ending, code, job):
            self._desk.settle(ending)


def _ending(delivery: Delivery, error: WorkerError, job: Job | None = None) -> Ending:
    reason = error.reason if isinstance(error, Poison) else error.code
    lease = job.lease if job else None
    # A lease keeps the lock meanwhile; without one the delay would outlive it.
    is_postponed = lease is not None and error.settlement is Settlement.ABANDON
    delay = delay_seconds(delivery.delivery_count) if is_postponed else 0.0
    return Ending(delivery, lease, error.settlement, reason, str(error), delay)
