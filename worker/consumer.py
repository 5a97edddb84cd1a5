"""The jobs of one model: its threads, and the steps that a job takes from one to the next.

    accept     receiver thread   `opening`: decode, hold the lease
    prepare    a few threads     `preparing`, `reading`: still wanted? fetch, decode, preprocess
    run        device thread     `running`: one batch through the model
    answer     reply threads     postprocess, store a large result, post the reply
    settle     any               `ending`: the receiver ends the message by the error's class

What is in hand is in the `ledger`; whether more may be taken, in `room`.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from contract.catalogue import Model
from worker.errors import HandedBack, InferenceFailed, WorkerError, WorkerFault
from worker.inference.batcher import Batcher, BatchQueue
from worker.inference.residence import Residence
from worker.inference.results import Finish, Result
from worker.inference.runner import Runner
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import Payloads
from worker.jobs.ending import Endings
from worker.jobs.ledger import Ledger
from worker.jobs.opening import Opening
from worker.jobs.preparing import Preparing
from worker.jobs.reading import Reading
from worker.jobs.room import Room
from worker.jobs.running import Running
from worker.jobs.wanted import Wanted
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.receiver import Receiver
from worker.messages.servicebus import Delivery, QueueLink, utc_now
from worker.outcomes.outlets import Outlets
from worker.outcomes.progress import Reporter
from worker.outcomes.replies import Replies
from worker.remote.reach import Reach
from worker.settings import Endpoint

_log = logging.getLogger(__name__)


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
        self._stopping = threading.Event()
        self._payloads = services.payloads
        self._residence = Residence(model, services.load)
        self._ledger = Ledger(model.name)
        self._room = Room(self._residence, self._ledger, model.max_batch_size)
        reach = Reach(f"Service Bus queue {model.queue}")
        link = QueueLink(services.service_bus, model.queue)
        self.receiver = Receiver(link, services.leases, reach)
        self._renewing = QueueLink(services.service_bus, model.queue)
        self._opening = Opening(model, services.outlets, services.leases)
        self._reporter = Reporter(services.replies.report)
        self._endings = Endings(
            model.name, self._ledger, self.receiver, services.outlets, self._reporter
        )
        self._batches = BatchQueue[Job](Batcher(model.max_batch_size, model.max_wait_ms / 1000))
        wanted = Wanted(services.replies, self._stopping)
        reading = Reading(model, services.payloads, services.fetcher, self._residence)
        self._preparing = Preparing(
            model.name, wanted, reading.read, self._batches.put, self._endings
        )
        reporter = self._reporter if model.reports_progress else None
        self._running = Running(self._residence, wanted, self._endings, reporter, self._answer)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def is_loaded(self) -> bool:
        """Whether the model can be called."""
        return self._residence.runner is not None

    @property
    def held_count(self) -> int:
        """How many messages are received and not settled."""
        return self._ledger.held_count

    def stop(self) -> None:
        """Drain: receive nothing more, hand back what has not started, finish what runs."""
        self._stopping.set()
        self.receiver.stop()
        for job in self._batches.close():
            self._endings.end(job, HandedBack("this worker is leaving"))

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
        self._residence.load(self._stopping)
        self.receiver.wake()
        if self._model.reports_progress:
            self._reporter.start()
        while batch := self._batches.take():
            self._running.run(batch)

    def has_room(self) -> bool:
        """See Intake."""
        return self._room.has_room()

    def accept(self, delivery: Delivery) -> None:
        """See Intake."""
        self._ledger.received(delivery)
        try:
            self._preparing.submit(self._open(delivery))
        except WorkerError as error:
            self._endings.refuse(delivery, error)
        except Exception as error:  # noqa: BLE001  the edge: whatever a foreign message brings about
            _log.exception("%s: message %s failed", self.name, delivery.message_id)
            self._endings.refuse(delivery, WorkerFault(type(error).__name__))

    def settled(self, delivery: Delivery) -> None:
        """See Intake."""
        self._ledger.settled(delivery)

    def _open(self, delivery: Delivery) -> Job:
        if self._stopping.is_set():
            raise HandedBack("this worker is leaving")
        job = self._opening.open(delivery, self._renew, utc_now())
        self._ledger.opened(job)
        return job

    def _renew(self, delivery: Delivery, timeout_seconds: float) -> float:
        expires_at = self._renewing.renew(delivery, timeout_seconds)
        return (expires_at - utc_now()).total_seconds()

    def _answer(self, job: Job, finish: Finish) -> None:
        self._endings.submit(job, lambda job: self._finish(job, finish), InferenceFailed)

    def _finish(self, job: Job, finish: Finish) -> None:
        """Let the model do its last step, beside the next batch."""
        result = finish()
        self._endings.attempt(job, lambda job: self._pack_and_reply(job, result))

    def _pack_and_reply(self, job: Job, result: Result) -> None:
        if job.context is not None:
            job.context.finish()
        packed = self._payloads.pack(job.request.job_id, result, job.lease.wait)
        self._endings.reply(job, packed)
