"""Process the jobs of one model: receive each job and call the steps in their order.

receive    one thread for each queue
prepare    a pool of threads; a second pool for inputs that are fetched from URLs, and a third for
           large inputs
infer      the model's device thread; in a concurrent model, on an event loop
reply      a pool of threads
           (each queue has its own pools, so that jobs of low priority do not delay others)
settle     requested by any thread, done by the thread that received the message
"""

import contextlib
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from contract.catalogue import ModelEntry
from contract.deliveries import MAX_NOTE_BYTES
from contract.messages import JobError, Payload, PayloadRef, PayloadUrl
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import ModelQueue, Settled
from worker.clock import utc_now
from worker.errors import (
    Cancelled,
    DeviceLost,
    Fault,
    HandedBack,
    InferenceFailed,
    NotFinished,
    RunTooLong,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_checks import ModelKind
from worker.inference.model_manager import ModelManager
from worker.inputs.opened import OpenedInput
from worker.inputs.payloads import LARGE_FILE_BYTES
from worker.memory.device_errors import is_device_lost
from worker.pipeline.concurrent import ConcurrentRuns, cost_of
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.infer import BatchQueue, Inferred, InferStep
from worker.pipeline.prepare import PrepareStep
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.receive import (
    MAX_OFFLOADED_COUNT,
    NO_RESULTS,
    Capacity,
    InFlight,
    ReceivedJob,
    ReceiveStep,
)
from worker.pipeline.reply import ReplyStep, SettleStep, to_worker_error
from worker.pipeline.suspects import RunningJobs, Suspects
from worker.processes.history import LockState
from worker.processes.setup import available_processors, preparing_threads
from worker.processes.shutdown import EXIT_DEVICE_LOST, EXIT_RESTART, Shutdown
from worker.replies import CachedReply, ReplyCache
from worker.telemetry.recording import log_fields

_log = logging.getLogger(__name__)

_REPLY_THREAD_COUNT = 16
# How long an idle thread waits for a call before it ends.
_IDLE_SECONDS = 60.0
_POLL_SECONDS = 0.05
# How often jobs that hold memory for a large input are checked while they wait for the device.
_CHECK_SECONDS = 2.0
# How long a batch with redelivered jobs waits until notes about them are written.
_NOTE_SECONDS = 1.0


class ThreadGroup:
    """Up to `limit` threads that run submitted calls, in their order.

    An executor wakes a thread for each call, and the threads then compete for the interpreter's
    lock. Here one thread wakes at a time: it takes a call, and wakes the next thread only if more
    calls wait. So short calls need few threads, and calls that wait have all of them.
    """

    def __init__(self, limit: int, name: str, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Start no thread yet. A thread without a call ends after `idle_seconds`."""
        self._limit = limit
        self._name = name
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], object]] = deque()
        self._idle: list[threading.Lock] = []
        self._is_waking = False
        self.count = 0
        """How many threads there are."""

    def submit(self, call: Callable[..., object], *arguments: object) -> None:
        """Run a call on one of the threads, and log the error that it raises."""
        with self._lock:
            self._calls.append(partial(call, *arguments))
            self._wake_next()

    def _wake_next(self) -> None:
        if self._is_waking or not self._calls:
            return
        if self._idle:
            self._is_waking = True
            self._idle.pop().release()
        elif self.count < self._limit:
            name = f"{self._name}_{self.count}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
            self._is_waking = True
            self.count += 1

    def _run(self) -> None:
        woken = threading.Lock()
        woken.acquire()
        is_new = True
        while is_new or woken.acquire(timeout=self._idle_seconds) or self._stays(woken):
            is_new = False
            with self._lock:
                self._is_waking = False
            while (call := self._take(woken)) is not None:
                try:
                    call()
                except BaseException:  # noqa: BLE001  code of a model may call sys.exit
                    _log.exception("a call on a thread of %s failed", self._name)
                del call

    def _take(self, woken: threading.Lock) -> Callable[[], object] | None:
        """Return the next call. Without one, mark this thread as idle."""
        with self._lock:
            if not self._calls:
                self._idle.append(woken)
                return None
            call = self._calls.popleft()
            self._wake_next()
            return call

    def _stays(self, woken: threading.Lock) -> bool:
        """Return whether this idle thread was woken just now. Otherwise it ends."""
        with self._lock:
            if woken not in self._idle:
                return woken.acquire()
            self._idle.remove(woken)
            self.count -= 1
            return False


class _Threads:
    """The threads of the jobs of one queue."""

    def __init__(self, queue: str) -> None:
        prepare_count = preparing_threads(available_processors())
        self.prepare = ThreadGroup(prepare_count, f"{queue}-prepare")
        self.fetch = ThreadGroup(MAX_OFFLOADED_COUNT, f"{queue}-fetch")
        self.large = ThreadGroup(prepare_count, f"{queue}-large")
        self.reply = ThreadGroup(_REPLY_THREAD_COUNT, f"{queue}-reply")


@dataclass(eq=False)
class Consumer:
    """Processes the jobs of one model: receives each job, calls the steps, and settles its message.

    The model's device thread calls `run_device`, and the thread of each queue calls `run_queue`.
    Any thread may call the other methods.
    """

    model: ModelEntry
    normal: ModelQueue
    low: ModelQueue
    receive: ReceiveStep
    prepare: PrepareStep
    infer: InferStep
    reply: ReplyStep
    settle: SettleStep
    manager: ModelManager
    in_flight: InFlight
    capacity: Capacity
    batches: BatchQueue[ReceivedJob]
    cache: ReplyCache
    progress: ProgressReporter | None
    stopping: threading.Event
    shutdown: Shutdown
    notes: DeliveryNotes
    running: RunningJobs
    suspects: Suspects
    concurrent: ConcurrentRuns

    def __post_init__(self) -> None:
        self._threads = {queue.name: _Threads(queue.name) for queue in self.queues}

    def _threads_of(self, job: ReceivedJob) -> _Threads:
        return self._threads[job.delivery.queue]

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model.name

    @property
    def queues(self) -> tuple[ModelQueue, ModelQueue]:
        """Return the model's queues for normal and for low priority."""
        return self.normal, self.low

    def run_queue(self, queue: ModelQueue) -> None:
        """Receive and settle the messages of one queue until the consumer has stopped."""
        free_count = partial(self._free_count, queue)
        while not queue.receiver.is_finished:
            try:
                for event in queue.receiver.settle_and_receive(free_count):
                    if isinstance(event, Settled):
                        self._note_settled(event)
                    else:
                        self._accept_message(queue, event)
                        # Release the interpreter's lock. Otherwise the thread that prepares the job
                        # waits while this thread settles other messages.
                        time.sleep(0)
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception(
                    "queue %s: receiving or settling failed; the worker tries again", queue.name
                )
                queue.receiver.disconnect()
                self.stopping.wait(1.0)
        queue.receiver.disconnect()

    def _free_count(self, queue: ModelQueue) -> int:
        if self.suspects.exist:
            return 0
        if not queue.is_low:
            return self.capacity.normal_count()
        return self.capacity.low_count() if self.normal.receiver.is_empty else 0

    def _accept_message(self, queue: ModelQueue, delivery: LockedMessage) -> None:
        """Turn a received message into a job, and submit the job to the next step."""
        self.in_flight.add_delivery(delivery)
        self.manager.touch()
        cached = self.cache.find_reply(delivery)
        try:
            with self.running.noting_read(delivery):
                job = self._open_message(queue, delivery, has_reply=cached is not None)
        except WorkerError as error:
            self.settle.refuse_message(delivery, error)
            return
        except Exception as error:  # noqa: BLE001  a foreign message may hold anything
            _log.exception(
                "%s: reading message %s failed with an unexpected error",
                self.name,
                delivery.message_id,
            )
            self.settle.refuse_message(delivery, WorkerFault(type(error).__name__))
            return
        self.in_flight.add_job(job)
        if delivery.delivery_count:
            self.notes.note_so_far(job)
        if cached is not None:
            self._use_cached_reply(job, cached)
        elif (refusal := self.manager.refusal) is not None:
            self.end_job(job, refusal)
        elif delivery.history.overrun_count:
            # An earlier worker could not deliver the reply.
            self.end_job(job, RunTooLong.after(self.infer.runs.seconds))
        else:
            is_concurrent = self.manager.loaded_kind() is ModelKind.CONCURRENT
            # One by one, many jobs that ran together would pass their deadlines.
            allowed_deaths = 1 if is_concurrent else 0
            self.suspects.start_in_turn(job, partial(self._start_job, job), allowed_deaths)

    def _open_message(
        self, queue: ModelQueue, delivery: LockedMessage, *, has_reply: bool
    ) -> ReceivedJob:
        if self.stopping.is_set():
            raise HandedBack("this worker is shutting down")
        if delivery.delivery_count and not has_reply and not delivery.history.overrun_count:
            self.receive.check_failures(delivery)
        return self.receive.open_delivery(delivery, queue.renew_lock, utc_now())

    def _use_cached_reply(self, job: ReceivedJob, cached: CachedReply) -> None:
        self.manager.telemetry.reused_replies.inc()
        self.in_flight.start_job(job)
        self._finish_run(job)
        self._threads_of(job).reply.submit(self.reply_again, job, cached)

    def _start_job(self, job: ReceivedJob) -> None:
        """Prepare a job, unless an earlier delivery of its message has a reply by now."""
        if job.delivery.delivery_count and (cached := self.cache.find_reply(job.delivery)):
            self._use_cached_reply(job, cached)
        else:
            self._start_preparing(job)

    def _start_preparing(self, job: ReceivedJob) -> None:
        pools = self._threads_of(job)
        threads = pools.prepare
        if self._is_fetched(job):
            threads = pools.fetch
        elif self._is_in_large_blob(job):
            threads = pools.large
        if threads is not pools.prepare:
            # Slow servers and large files must not delay the other jobs of the model.
            self.in_flight.offload_job(job)
        threads.submit(self._open_input, job)

    @staticmethod
    def _is_fetched(job: ReceivedJob) -> bool:
        return any(isinstance(payload, PayloadUrl) for payload in job.request.all_inputs)

    @staticmethod
    def _is_in_large_blob(job: ReceivedJob) -> bool:
        sizes = (
            payload.size_bytes
            for payload in job.request.all_inputs
            if isinstance(payload, PayloadRef)
        )
        return sum(sizes) > LARGE_FILE_BYTES

    def _open_input(self, job: ReceivedJob) -> None:
        with self.ending_on_error(job, InferenceFailed):
            opened = self.prepare.read_inputs(job)
            if opened is None:
                self._queue_for_device(job)
            elif opened.is_small and self._is_fetched(job):
                self._threads_of(job).prepare.submit(self._decode_input, job, opened)
            elif opened.is_small or self._is_in_large_blob(job):
                self._decode_input(job, opened)
            else:
                self.in_flight.offload_job(job)
                self._wake_receivers()
                self._threads_of(job).large.submit(self._decode_input, job, opened)

    def _decode_input(self, job: ReceivedJob, opened: OpenedInput) -> None:
        with self.ending_on_error(job, InferenceFailed):
            self.prepare.decode_input(job, opened)
            self._queue_for_device(job)

    def _queue_for_device(self, job: ReceivedJob) -> None:
        with self.ending_on_error(job):
            self.in_flight.bring_back_job(job)
            cost = (
                job.cost if self.manager.loaded_kind() is not ModelKind.CONCURRENT else cost_of(job)
            )
            if not self.batches.add_item(job, cost, is_low=job.delivery.queue == self.low.name):
                raise HandedBack("this worker is shutting down or unloading the model")

    def run_device(self) -> None:
        """Load the model and run its batches until a stop, or until the device is lost."""
        if self.progress is not None:
            self.progress.start()
        threading.Thread(
            target=self._check_waiting, name=f"{self.name}-waiting", daemon=True
        ).start()
        try:
            while self.manager.load(self.stopping):
                self.batches.resume()
                self._wake_receivers()
                self._run_batches()
                self.manager.unload()
        except Exception as error:
            if not is_device_lost(error):
                raise
            self._request_shutdown(DeviceLost(type(error).__name__))

    def _run_batches(self) -> None:
        """Run batches until the model must be unloaded or the consumer is stopped."""
        if (loaded := self.manager.loaded) is not None and loaded.kind is ModelKind.CONCURRENT:
            loaded.run_loop(self._run_concurrently(loaded))
        while batch := self.batches.take_batch(self.manager.limit.max_cost):
            is_low = batch[0].delivery.queue == self.low.name
            for part in self.infer.split_batch(batch):
                # A batch of an item model may have many items that run one after another.
                while is_low and (normal := self.batches.take_normal()):
                    for each in self.infer.split_batch(normal):
                        self._run_batch(each)
                self._run_batch(part)
        for job in self.batches.take_all():
            self.end_job(job, HandedBack("the model was unloaded before the job ran"))
        # The last jobs still need the model to postprocess their outputs.
        while self.stopping.is_set() and self.in_flight.held_count:
            time.sleep(_POLL_SECONDS)

    async def _run_concurrently(self, loaded: LoadedModel) -> None:
        async for inferred in self.concurrent.run_jobs(loaded):
            self._end_run(inferred)

    def _run_batch(self, batch: list[ReceivedJob]) -> None:
        if self.shutdown.is_requested:
            # The batch was taken from the queue just before shutdown was requested. The device may
            # be lost.
            for job in batch:
                self.end_job(job, HandedBack("this worker is shutting down"))
            return
        self._note_redelivered(batch)
        self.running.begin_run(*(job.delivery for job in batch))
        left = set(batch)
        for inferred in self.infer.run_batch(batch):
            job = inferred.job
            left.discard(job)
            job.ran_alone = self.running.end_run(job.delivery, LockState.RAN)
            if inferred.loaded is not None and inferred.loaded.kind is ModelKind.ITEM:
                self.capacity.note_item(job.inference_ms / 1000)
            self._end_run(inferred)
        for job in left:
            # This job had ended before, so it has no outcome.
            self.running.end_run(job.delivery, LockState.RAN)

    def _end_run(self, inferred: Inferred) -> None:
        job = inferred.job
        if inferred.error is not None:
            self.fail_job(job, inferred.error, InferenceFailed)
        else:
            self._finish_run(job)
            self._threads_of(job).reply.submit(self._reply_with_result, job, inferred)

    def _note_redelivered(self, batch: list[ReceivedJob]) -> None:
        """Write a delivery note for each redelivered job in a batch that is about to run.

        If the job kills the process again, the gateway's record can say that the model ran it.
        """
        redelivered = [job for job in batch if job.delivery.delivery_count]
        for job in redelivered:
            job.mark_step("batched_ms")
            self.notes.note_so_far(job)
        if redelivered:
            self.notes.wait(_NOTE_SECONDS)

    def _reply_with_result(self, job: ReceivedJob, inferred: Inferred) -> None:
        with self.ending_on_error(job, InferenceFailed):
            with (
                self.running.noting_run(job.delivery, LockState.RAN),
                self.infer.runs.timing_run(job),
            ):
                found = inferred.finish_output()
            with self.ending_on_error(job):
                payload, results = self.reply.store_results(job, found)
                self.reply_and_settle(job, payload, results)

    def reply_and_settle(
        self,
        job: ReceivedJob,
        outcome: Payload | JobError,
        results: Mapping[str, Payload] = NO_RESULTS,
    ) -> None:
        """Send the reply to a job, and then complete the job's message."""
        code = self.reply.send_reply(job, outcome, results)
        self._complete(job, code)

    def reply_again(self, job: ReceivedJob, cached: CachedReply) -> None:
        """Send a cached reply if it was not delivered yet, and complete the job's message."""
        with self.ending_on_error(job):
            code = self.reply.send_cached_reply(job, cached)
            self._complete(job, code)

    def _complete(self, job: ReceivedJob, code: str) -> None:
        self.settle.complete_message(job, code)
        if job.delivery.delivery_count:
            self.notes.note_end(job, Settlement.COMPLETE, code)

    def _note_settled(self, settled: Settled) -> None:
        request = settled.request
        self.in_flight.remove_delivery(request.delivery, in_time=settled.in_time)
        is_final = request.settlement in (Settlement.COMPLETE, Settlement.DEAD_LETTER)
        if settled.in_time and is_final:
            self.cache.remove_reply(request.delivery)

    @contextlib.contextmanager
    def ending_on_error(
        self, job: ReceivedJob, unexpected: type[WorkerError] = WorkerFault
    ) -> Iterator[None]:
        """End the job if the `with` block raises an error.

        `unexpected` is the class of the job's error if the raised one is not a WorkerError.
        """
        with log_fields(job_id=job.request.job_id, model=self.name, trace_id=job.span.trace_id):
            try:
                yield
            except BaseException as error:  # noqa: BLE001  every job must end
                self.fail_job(job, error, unexpected)

    def fail_job(
        self, job: ReceivedJob, error: BaseException, unexpected: type[WorkerError]
    ) -> None:
        """End a job because of an error. `unexpected` is as in `ending_on_error`."""
        if not isinstance(error, WorkerError):
            with log_fields(job_id=job.request.job_id, model=self.name, trace_id=job.span.trace_id):
                _log.error(
                    "%s: job %s failed with an unexpected error",
                    self.name,
                    job.request.job_id,
                    exc_info=error,
                )
            job.traceback = "".join(traceback.format_exception(error))[-MAX_NOTE_BYTES:]
            self.notes.note_so_far(job)
        ours = to_worker_error(error, unexpected, self.name)
        if isinstance(ours, DeviceLost):
            self._request_shutdown(ours)
        self.end_job(job, ours)

    def end_job(self, job: ReceivedJob, error: WorkerError) -> None:
        """End a job that has no result: reply with the error if it is a Fault, and settle."""
        self._finish_run(job)
        if isinstance(error, Fault):
            self.in_flight.start_job(job)
            self._threads_of(job).reply.submit(self._reply_with_failure, job, error.to_job_error())
        elif isinstance(error, Cancelled) and job.context is not None:
            self._threads_of(job).reply.submit(self._report_stopped, job, error)
        else:
            self._settle_without_reply(job, error)

    def _reply_with_failure(self, job: ReceivedJob, failure: JobError) -> None:
        with self.ending_on_error(job):
            self.reply_and_settle(job, failure)

    def _report_stopped(self, job: ReceivedJob, error: Cancelled) -> None:
        with self.ending_on_error(job):
            if job.context is not None:
                job.context.report_stopped()
            self._settle_without_reply(job, error)

    def _settle_without_reply(self, job: ReceivedJob, error: WorkerError) -> None:
        request = self.settle.settle_without_reply(job, error)
        if request is None:
            return
        # The first delivery of a job that did not run and is no longer wanted needs no note.
        is_first_unrun = not job.delivery.delivery_count and job.started_at is None
        if not is_first_unrun or request.settlement is not Settlement.COMPLETE:
            self.notes.note_end(job, request.settlement, request.reason)

    def _finish_run(self, job: ReceivedJob) -> None:
        """Record that a job no longer needs the device, so that more messages can be received."""
        job.release_input()
        if job.context is not None and self.progress is not None:
            self.progress.close_context(job.context)
        self.in_flight.finish_run(job)
        self._wake_receivers()

    def _check_waiting(self) -> None:
        while not self.stopping.wait(_CHECK_SECONDS):
            try:
                self.end_overdue()
                self.end_unwanted()
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception("%s: checking the jobs failed; the worker tries again", self.name)

    def end_unwanted(self) -> None:
        """End the cancelled and expired jobs that hold memory while they wait for the device."""
        for job in self.in_flight.waiting_with_memory():
            try:
                self.prepare.check_held(job)
            except WorkerError as error:
                if self.in_flight.start_job(job):
                    self.end_job(job, error)

    def end_overdue(self) -> None:
        """End the jobs of each call of the model's code that exceeds `max_run_seconds`.

        Nothing can interrupt the call, so the process restarts. If the call has one job, the job
        fails. This is noted before the reply is sent: if the process dies in between, the next
        worker fails the job. Several jobs run again, each in a batch of its own, because nobody
        knows which is at fault.
        """
        limit_seconds = self.infer.runs.seconds
        for jobs in self.infer.runs.take_overdue():
            names = ", ".join(job.request.job_id for job in jobs)
            text = f"the model {self.name} ran longer than max_run_seconds ({limit_seconds:g} s)"
            _log.error("%s; this process restarts; jobs: %s", text, names)
            for job in jobs:
                job.overrun_count = len(jobs)
                if len(jobs) == 1:
                    self.running.end_run(job.delivery, LockState.OVERRUN)
                    self.end_job(job, RunTooLong.after(limit_seconds))
                else:
                    self.end_job(job, NotFinished(text))
            if not self.shutdown.is_requested:
                self.shutdown.request(text, EXIT_RESTART)

    def stop_receiving(self) -> None:
        """Stop receiving, and release the messages of jobs that have not started."""
        self.stopping.set()
        for queue in self.queues:
            queue.receiver.stop_receiving()
        self.batches.close()
        for job in self.in_flight.withdraw_jobs():
            self.end_job(job, HandedBack("this worker is shutting down"))

    def abandon_jobs(self) -> None:
        """Abandon all jobs that have not ended, because the grace period has passed."""
        for job in self.in_flight.jobs_without_outcome():
            self.end_job(job, NotFinished("this worker stopped before the job was finished"))

    def _wake_receivers(self) -> None:
        self.normal.receiver.wake()
        # Low priority has no capacity until the queue for normal priority is empty.
        if self.normal.receiver.is_empty:
            self.low.receiver.wake()

    def _request_shutdown(self, error: DeviceLost) -> None:
        _log.error("%s: the device is lost, so this worker shuts down: %s", self.name, error)
        self.shutdown.request("the device is lost", EXIT_DEVICE_LOST)
