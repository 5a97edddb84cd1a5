"""What one model's consumer has in hand, and the one place that every message passes."""

import logging

from worker.messages.job import Job
from worker.messages.receiver import Ending
from worker.messages.servicebus import Delivery

_log = logging.getLogger(__name__)


class Ledger:
    """The messages of one model that this worker holds. Any thread may tell.

    A message is `received`, then `ended`, then `settled`. One that becomes a job is `opened` and
    `has_run` in between; it has also run where it never will.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._held: set[Delivery] = set()
        self._not_run: set[Job] = set()

    @property
    def held_count(self) -> int:
        """How many messages are received and not settled."""
        return len(self._held)

    @property
    def not_run_count(self) -> int:
        """How many of them are jobs that have not run yet."""
        return len(self._not_run)

    def received(self, delivery: Delivery) -> None:
        """A message came."""
        self._held.add(delivery)

    def opened(self, job: Job) -> None:
        """It is a job, which is to run."""
        self._not_run.add(job)

    def has_run(self, job: Job) -> None:
        """The job needs the device no more. May be told more than once."""
        self._not_run.discard(job)

    def ended(self, ending: Ending, code: str, job: Job | None = None) -> None:
        """It is decided how the message ends; `code` is `succeeded` or that of an error."""
        if job is not None:
            job.span.end(code, {"loosely.batch_size": job.batch_size})
        _log.info(
            "%s: job %s %s, %s; delivery %d, trace %s %s",
            *(self._model, ending.delivery.message_id, code, ending.how),
            *(ending.delivery.delivery_count + 1, job.span.trace_id if job else "-"),
            ending.description,
        )

    def settled(self, delivery: Delivery) -> None:
        """The message is out of hand."""
        self._held.discard(delivery)
