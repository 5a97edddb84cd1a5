"""How every job ends: whatever a model's code, a library or we ourselves raise ends here.

A step of a job ends in the error that it is, and the message is settled by the table in `errors`.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from contract.codec import encode_reply
from contract.messages import JobError, Payload
from worker.errors import (
    Cancelled,
    Fault,
    LockLost,
    Poison,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.jobs.ledger import Ledger
from worker.messages.job import Job
from worker.messages.receiver import Ending, Receiver
from worker.messages.servicebus import Delivery
from worker.outcomes.outlets import Outlets
from worker.outcomes.progress import Reporter

_log = logging.getLogger(__name__)

_REPLYING_THREADS = 16

Step = Callable[[Job], None]


class Endings:
    """The ends of one model's jobs. Any thread; replies go out on threads of its own."""

    def __init__(
        self, name: str, ledger: Ledger, receiver: Receiver, outlets: Outlets, reporter: Reporter
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._receiver = receiver
        self._outlets = outlets
        self._reporter = reporter
        self._replying = ThreadPoolExecutor(_REPLYING_THREADS, f"{name}-reply")

    def attempt(self, job: Job, step: Step, unexpected: type[WorkerError] = WorkerFault) -> None:
        """Run one step of a job; whatever it raises ends the job in its own way."""
        try:
            step(job)
        except Exception as error:  # noqa: BLE001  the edge: no job may hang for an unforeseen error
            self.fail(job, error, unexpected)

    def submit(self, job: Job, step: Step, unexpected: type[WorkerError] = WorkerFault) -> None:
        """The same on a thread for replies."""
        self._replying.submit(self.attempt, job, step, unexpected)

    def fail(self, job: Job, error: Exception, unexpected: type[WorkerError]) -> None:
        """End a job by what was raised; `unexpected` stands for what is none of our errors."""
        if isinstance(error, WorkerError):
            self.end(job, error)
            return
        _log.error("%s: job %s raised", self._name, job.request.job_id, exc_info=error)
        self.end(job, unexpected(f"the model {self._name} failed on this input"))

    def end(self, job: Job, error: WorkerError) -> None:
        """End a job without a result, as the error's class says."""
        self.has_run(job)
        if isinstance(error, Fault):
            outcome = error.to_job_error()
            self.submit(job, lambda job: self.reply(job, outcome))
        elif isinstance(error, Cancelled) and job.context is not None:
            self.submit(job, lambda job: self._stopped(job, error))
        else:
            self._settle(job, error)

    def refuse(self, delivery: Delivery, error: WorkerError) -> None:
        """End a message that never became a job."""
        ending = _ending(delivery, error)
        self._ledger.ended(ending, error.code)
        self._receiver.settle(ending)

    def reply(self, job: Job, outcome: Payload | JobError) -> None:
        """Reply, and only then complete: a crash in between costs a question, not an answer."""
        if job.lease.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if reply_to := job.request.reply_to:
            body = encode_reply(job.reply(outcome))
            self._outlets.post(reply_to, body, job.request.job_id, job.lease.wait)
        code = outcome.code if isinstance(outcome, JobError) else "succeeded"
        ending = Ending(job.delivery, job.lease, Settlement.COMPLETE)
        self._ledger.ended(ending, code, job)
        self._receiver.settle(ending)

    def has_run(self, job: Job) -> None:
        """The job needs the device no more: its place is free."""
        job.item = None
        if job.context is not None:
            self._reporter.end(job.context)
        self._ledger.has_run(job)
        self._receiver.wake()

    def _stopped(self, job: Job, error: Cancelled) -> None:
        """Tell the gateway that a cancelled job has stopped, so that it need not wait longer."""
        if job.context is not None:
            job.context.stopped()
        self._settle(job, error)

    def _settle(self, job: Job, error: WorkerError) -> None:
        how = LockLost("") if job.lease.is_lost else error
        ending = _ending(job.delivery, how, job)
        self._ledger.ended(ending, how.code, job)
        self._receiver.settle(ending)


def _ending(delivery: Delivery, error: WorkerError, job: Job | None = None) -> Ending:
    reason = error.reason if isinstance(error, Poison) else error.code
    return Ending(delivery, job.lease if job else None, error.settlement, reason, str(error))
