"""What one model's consumer has in hand, and the one place that every message passes."""

import logging
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta

from worker.messages.job import Job
from worker.messages.receiver import Ending
from worker.messages.servicebus import Delivery, utc_now
from worker.observed.logs import about
from worker.observed.metrics import ModelMetrics

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class InHand:
    """What came from one queue and is not settled yet.

    `open` are those of which it is not decided how they end, `not_run` the jobs that still need
    the device, `postponed` those whose settlement waits.
    """

    held: set[Delivery] = field(default_factory=set)
    open: set[Delivery] = field(default_factory=set)
    not_run: set[Job] = field(default_factory=set)
    postponed: set[Delivery] = field(default_factory=set)

    @property
    def busy_count(self) -> int:
        """How many messages there is something to do for."""
        return len(self.held) - len(self.postponed)


class Ledger:
    """The messages of one model that this worker holds. Any thread may tell.

    A message is `received`, then `ended`, then `settled`. One that becomes a job is `opened`,
    `started` and `has_run` in between; it has also run where it never will.
    """

    def __init__(self, model: str, figures: ModelMetrics) -> None:
        self._model = model
        self._figures = figures
        self._in_hand: defaultdict[str, InHand] = defaultdict(InHand)
        self._jobs: dict[Delivery, Job] = {}
        self._unstarted: set[Delivery] = set()
        self._lock = threading.Lock()

    def in_hand(self, queue: str) -> InHand:
        """What came from this queue."""
        return self._in_hand[queue]

    @property
    def held_count(self) -> int:
        """How many messages are received and not settled."""
        return sum(len(in_hand.held) for in_hand in list(self._in_hand.values()))

    def open_jobs(self) -> list[Job]:
        """The jobs of which it is not decided how they end."""
        with self._lock:
            return list(self._jobs.values())

    def is_open(self, job: Job) -> bool:
        """Whether it is not decided yet how the job ends."""
        with self._lock:
            return job.delivery in self._jobs

    def received(self, delivery: Delivery) -> None:
        """A message came."""
        in_hand = self._in_hand[delivery.queue]
        in_hand.held.add(delivery)
        in_hand.open.add(delivery)
        waited = utc_now() - delivery.enqueued_at if delivery.enqueued_at else timedelta()
        self._figures.received(delivery.delivery_count, waited.total_seconds())

    def opened(self, job: Job) -> None:
        """It is a job, which is to run."""
        self._in_hand[job.delivery.queue].not_run.add(job)
        with self._lock:
            self._jobs[job.delivery] = job
            self._unstarted.add(job.delivery)

    def started(self, job: Job) -> bool:
        """The job is on its way through the device; False where it was withdrawn before."""
        with self._lock:
            if job.delivery not in self._unstarted:
                return False
            self._unstarted.discard(job.delivery)
            return True

    def withdraw(self) -> list[Job]:
        """Have no more jobs start; returns those that have not."""
        with self._lock:
            jobs = [self._jobs[delivery] for delivery in self._unstarted]
            self._unstarted.clear()
            return jobs

    def has_run(self, job: Job) -> None:
        """The job needs the device no more. May be told more than once."""
        self._in_hand[job.delivery.queue].not_run.discard(job)

    def ended(self, ending: Ending, code: str, job: Job | None = None) -> bool:
        """It is decided how the message ends; False where that was decided before.

        `code` is `succeeded` or that of an error.
        """
        in_hand = self._in_hand[ending.delivery.queue]
        with self._lock:
            if ending.delivery not in in_hand.open:
                return False
            in_hand.open.discard(ending.delivery)
            self._jobs.pop(ending.delivery, None)
            self._unstarted.discard(ending.delivery)
        if ending.delay_seconds:
            in_hand.postponed.add(ending.delivery)
        self._figures.settled(code)
        if job is not None:
            job.span.end(code, {"loosely.batch_size": job.batch_size})
        job_id, trace_id = ending.delivery.message_id, job.span.trace_id if job else "-"
        with about(job_id=job_id, model=self._model, trace_id=trace_id):
            _log.info(
                "%s: job %s %s, %s; delivery %d, trace %s %s",
                *(self._model, job_id, code, ending.how, ending.delivery.delivery_count + 1),
                *(trace_id, ending.description),
            )
        return True

    def settled(self, ending: Ending, *, in_time: bool) -> None:
        """The message is out of hand; not `in_time` where its lock was lost before."""
        in_hand = self._in_hand[ending.delivery.queue]
        in_hand.postponed.discard(ending.delivery)
        in_hand.held.discard(ending.delivery)
        if not in_time:
            self._figures.lock_lost()
