"""The jobs of one model: its threads, and the steps that a job takes from one to the next.

    accept     receiver thread   `opening`: decode, hold the lease
    prepare    a few threads     `preparing`, `reading`: still wanted? fetch, decode, preprocess
    run        device thread     `running`: one batch through the model
    answer     reply threads     `answering`: postprocess, store a large result, post the reply
    settle     any               `ending`: the receiver ends the message by the error's class

What is in hand is in the `ledger`; whether more may be taken, in `room`.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from contract.catalogue import Model
from contract.names import low_priority_queue
from worker.errors import (
    DeviceLost,
    HandedBack,
    NotFinished,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.inference.batcher import Batcher, BatchQueue
from worker.inference.lost_device import is_device_lost
from worker.inference.residence import Residence
from worker.inference.runner import Runner
from worker.inputs.fetching import Fetcher
from worker.inputs.payloads import Payloads
from worker.jobs.answering import Answering
from worker.jobs.ending import Endings
from worker.jobs.ledger import Ledger
from worker.jobs.opening import Opening
from worker.jobs.patience import Patience
from worker.jobs.preparing import Preparing
from worker.jobs.reading import Reading
from worker.jobs.room import Room
from worker.jobs.running import Running
from worker.jobs.wanted import Wanted
from worker.leaving import EXIT_DEVICE_LOST, Leaving
from worker.memory.place import Occupant
from worker.memory.sharing import Sharing
from worker.messages.job import Job
from worker.messages.lease import Leases
from worker.messages.line import Line
from worker.messages.receiver import Ending, Intake
from worker.messages.servicebus import Delivery, QueueLink, utc_now
from worker.observed.metrics import Metrics
from worker.observed.tracing import Tracing
from worker.observed.watch import Watch
from worker.outcomes.kept import KeptReplies
from worker.outcomes.outlets import Outlets
from worker.outcomes.progress import Reporter
from worker.outcomes.replies import Replies
from worker.settings import Endpoint

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Services:
    """What the consumers of all models share."""

    service_bus: Endpoint
    leases: Leases
    payloads: Payloads
    replies: Replies
    outlets: Outlets
    fetcher: Fetcher
    kept: KeptReplies
    leaving: Leaving
    load: Callable[[Model], Runner]
    sharing: Sharing
    metrics: Metrics
    tracing: Tracing


class Consumer:
    """One model's queues. `run_device` is a thread, and so is `run_line` for each of `lines`."""

    def __init__(self, model: Model, services: Services) -> None:
        self._model = model
        self._stopping = threading.Event()
        self._leaving = services.leaving
        self._kept = services.kept
        self._figures = services.metrics.of(model.name)
        self._ledger = Ledger(model.name, self._figures)
        low_queue = low_priority_queue(model.queue)
        shared = (services.service_bus, services.leases, model.lock_seconds)
        self.normal = Line(model.queue, *shared)
        self.low = Line(low_queue, *shared, is_low=True)
        self.lines = {line.queue: line for line in (self.normal, self.low)}
        watch = Watch(model.name, self._figures, services.tracing)
        occupant = self._occupant(services)
        self._residence = Residence(model, services.load, services.sharing, occupant, watch)
        self._room = Room(self._residence, self._ledger, model)
        self._opening = Opening(model, services.outlets, services.leases, services.tracing)
        self._reporter = Reporter(services.replies.report)
        self._endings = Endings(model.name, self._ledger, self, services.outlets, services.kept)
        self._batches = BatchQueue[Job](Batcher(model.max_batch_size, model.max_wait_ms / 1000))
        patience = Patience(self._stopping)
        wanted = Wanted(services.replies, patience)
        reading = Reading(model, services.payloads, services.fetcher, self._residence, patience)
        self._preparing = Preparing(model.name, wanted, reading.read, self._hand_on, self._endings)
        answering = Answering(services.payloads, self._endings)
        reporter = self._reporter if model.reports_progress else None
        self._running = Running(self._residence, wanted, self._endings, reporter, answering.answer)
        self._figures.watch_memory_reserved(lambda: self._residence.reserved_bytes)
        self._figures.watch(
            in_hand=lambda: self.held_count,
            loaded=lambda: self.is_loaded,
            connected=lambda: self.normal.receiver.is_connected,
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def is_loaded(self) -> bool:
        """Whether the model can be called."""
        return self._residence.runner is not None

    @property
    def is_standing_by(self) -> bool:
        """Whether the model is not loaded only because others have the memory, and will be."""
        return self._residence.is_standing_by

    @property
    def problem(self) -> dict[str, str] | None:
        """Why the model could not be loaded when last tried; None where it may wait or is there."""
        return self._residence.problem

    @property
    def held_count(self) -> int:
        """How many messages are received and not settled."""
        return self._ledger.held_count

    def stop(self) -> None:
        """Drain: receive nothing more, hand back what has not started, finish what runs."""
        self._stopping.set()
        for line in self.lines.values():
            line.receiver.stop()
        self._batches.close()
        for job in self._ledger.withdraw():
            self._endings.end(job, HandedBack("this worker is leaving"))

    def give_up(self) -> None:
        """The grace is over: give back what could not be finished, so that others begin at once."""
        for job in self._ledger.open_jobs():
            self._endings.end(job, NotFinished("this worker left before the job was finished"))

    def run_line(self, line: Line) -> None:
        """The thread of one queue: receive and settle, until drained."""
        room = self._room_for_low if line.is_low else self._room.room
        line.run(Intake(room, self._accept, self._settled), self._stopping)

    def run_device(self) -> None:
        """The thread that loads the model and runs it, until stopped or its device is lost."""
        if self._model.reports_progress:
            self._reporter.start()
        try:
            self._serve()
        except Exception as error:
            if not is_device_lost(error):
                raise
            self.lost_device(DeviceLost(type(error).__name__))

    def _serve(self) -> None:
        while self._residence.enter(self._stopping):
            self._batches.resume()
            self._wake()
            while batch := self._batches.take(self._residence.allowance.max_cost):
                self._run(batch)
            # Who leaves has jobs in their last steps yet, which need the model, too.
            while self._stopping.is_set() and self.held_count:
                time.sleep(_POLL_SECONDS)
            self._residence.leave()

    def settle(self, ending: Ending) -> None:
        """See Desk."""
        self.lines[ending.delivery.queue].receiver.settle(ending)

    def has_run(self, job: Job) -> None:
        """See Desk."""
        job.item = None
        if job.context is not None:
            self._reporter.end(job.context)
        self._ledger.has_run(job)
        self._wake()

    def lost_device(self, error: DeviceLost) -> None:
        """See Desk."""
        _log.error("%s: the device is lost, this worker leaves: %s", self.name, error)
        self._leaving.ask("the device is lost", EXIT_DEVICE_LOST)

    def _occupant(self, services: Services) -> Occupant:
        windows = [QueueLink(services.service_bus, queue) for queue in self.lines]
        return Occupant(self.name, self._busy_count, self._may_take, self._vacate, windows)

    def _busy_count(self) -> int:
        return sum(self._ledger.in_hand(queue).busy_count for queue in self.lines)

    def _may_take(self) -> bool:
        return any(line.receiver.may_take for line in self.lines.values())

    def _vacate(self) -> None:
        """Nothing is in hand and the model is to make room: let the device's thread unload it."""
        for job in self._batches.pause():
            self._endings.end(job, HandedBack("the model was unloaded"))
        self._wake()

    def _run(self, batch: list[Job]) -> None:
        if not self._leaving.is_asked:
            self._running.run(batch)
            return
        # Taken in the moment before `stop`, perhaps by a device that is lost.
        for job in batch:
            self._endings.end(job, HandedBack("this worker is leaving"))

    def _room_for_low(self) -> int:
        """The room, while the normal queue has nothing to give."""
        return self._room.room_for_low() if self.normal.receiver.is_dry else 0

    def _accept(self, delivery: Delivery) -> None:
        self._ledger.received(delivery)
        self._residence.touch()
        try:
            self._take(self._open(delivery))
        except WorkerError as error:
            self._endings.refuse(delivery, error)
        except Exception as error:  # noqa: BLE001  the edge: whatever a foreign message brings about
            _log.exception("%s: message %s failed", self.name, delivery.message_id)
            self._endings.refuse(delivery, WorkerFault(type(error).__name__))

    def _settled(self, ending: Ending, in_time: bool) -> None:
        self._ledger.settled(ending, in_time=in_time)
        if in_time and ending.how in (Settlement.COMPLETE, Settlement.DEAD_LETTER):
            self._kept.forget(ending.delivery)

    def _open(self, delivery: Delivery) -> Job:
        if self._stopping.is_set():
            raise HandedBack("this worker is leaving")
        renew = self.lines[delivery.queue].renew
        job = self._opening.open(delivery, renew, utc_now())
        self._ledger.opened(job)
        return job

    def _take(self, job: Job) -> None:
        if (kept := self._kept.find(job.delivery)) is not None:
            self._figures.answered_at_hand()
            self._ledger.started(job)
            self.has_run(job)
            self._endings.submit(job, lambda job: self._endings.reply_again(job, kept))
        else:
            self._preparing.submit(job)

    def _hand_on(self, job: Job) -> bool:
        return self._batches.put(job, job.cost, is_low=job.delivery.queue == self.low.queue)

    def _wake(self) -> None:
        self.normal.receiver.wake()
        # The other has no room before: each wake would take time from the device for nothing.
        if self.normal.receiver.is_dry:
            self.low.receiver.wake()
