"""Run the jobs of a concurrent model, many at once, on the event loop of the device thread.

Jobs join and leave at any time. A job that must stop gets a CancelledError: it was cancelled, its
deadline has passed, its lock is lost, it runs too long, or this worker ends.
"""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from contract.catalogue import ModelEntry
from worker.clock import utc_now
from worker.errors import (
    Cancelled,
    EngineLost,
    HandedBack,
    LockLost,
    NotFinished,
    RunTooLong,
    WorkerError,
)
from worker.inference.loaded_model import LoadedModel
from worker.inference.model_manager import ModelManager
from worker.memory.device_errors import is_out_of_memory
from worker.models import Context
from worker.pipeline.deliveries import DeliveryNotes
from worker.pipeline.infer import BatchQueue, Inferred
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.pipeline.suspects import RunLimit, RunningJobs
from worker.processes.history import LockState
from worker.processes.shutdown import Shutdown
from worker.stops import StopOrders
from worker.telemetry.recording import log_fields

# How often it is checked whether a running job must stop.
_CHECK_SECONDS: Final = 0.1
# How long a job that was stopped because it ran too long may take to end, before it counts as one
# that cannot be stopped.
_END_SECONDS: Final = 5.0
# How long a redelivered job waits until the note about it is written.
_NOTE_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class _Run:
    """A job that runs.

    `is_alone` says whether the model has run no other job meanwhile. `stopped` is the error with
    which it ends if it must stop. It is stuck if it runs on all the same.
    """

    job: ReceivedJob
    begun: float
    is_alone: bool
    task: "asyncio.Task[Inferred]" = field(init=False)
    stopped: WorkerError | None = None
    is_stuck: bool = False


class _DeviceUse:
    """Lets jobs use the device together while they fit into its memory.

    From the start of the first job to the end of the last one, the model uses the device as for one
    batch. If the memory of such a batch is not known, it is measured, so no other job may join.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._limit = manager.limit
        self._entered = contextlib.ExitStack()
        self._is_used = False
        self._max_cost = 0.0
        self._cost = 0.0

    def room(self, costs: Sequence[float]) -> float:
        """Return the highest cost of a job that may start now, beside others with these costs."""
        if not (self._is_used or costs):
            return math.inf  # a job with a higher cost than all batches runs alone
        # Finite, so that a job of infinite cost always runs alone.
        max_cost = self._max_cost if self._is_used else self._limit.max_cost
        return min(max_cost, sys.float_info.max) - self._cost - sum(costs)

    def enter(self, jobs: Sequence[ReceivedJob]) -> None:
        """Let jobs use the device. The first ones wait until other models let them."""
        cost = sum(job.cost for job in jobs)
        if not self._is_used:
            measured_cost = self._limit.measured_cost
            self._max_cost = measured_cost if cost <= measured_cost else 0.0
            is_open = cost <= measured_cost < math.inf
            self._entered.enter_context(self._limit.admit_batch(measured_cost if is_open else cost))
            self._is_used = True
        self._cost += sum(map(cost_of, jobs))

    def join_no_more(self) -> None:
        """Let the running jobs end, if more could then run together."""
        if self._limit.max_cost > self._max_cost:
            self._max_cost = 0.0

    def leave(self, job: ReceivedJob, *, is_last: bool) -> None:
        """Record that a job no longer uses the device."""
        self._cost -= cost_of(job)
        if is_last:
            self._entered.close()
            self._is_used, self._cost = False, 0.0

    def note_exceeded(self, running: Sequence[ReceivedJob]) -> None:
        """Record that the memory was not enough for these jobs together."""
        cost = sum(job.cost for job in running)
        self._limit.note_exceeded(cost, cost / 2)


def cost_of(job: ReceivedJob) -> float:
    """Return a job's share of the memory; infinite if no other job may run beside it."""
    return math.inf if job.delivery.history.batch_overrun_count else job.cost


@dataclass(eq=False)
class ConcurrentRuns:
    """The running jobs of one concurrent model. Only its device thread may call `run_jobs`."""

    model: ModelEntry
    manager: ModelManager
    in_flight: InFlight
    batches: BatchQueue[ReceivedJob]
    progress: ProgressReporter | None
    notes: DeliveryNotes
    running: RunningJobs
    runs: RunLimit
    stops: StopOrders
    shutdown: Shutdown

    def __post_init__(self) -> None:
        self._running: list[_Run] = []
        self._checked_at = -math.inf
        self._is_stop_ordered = False

    @property
    def count(self) -> int:
        """How many jobs run now."""
        return len(self._running)

    async def run_jobs(self, loaded: LoadedModel) -> AsyncIterator[Inferred]:
        """Run the jobs of `batches`, and yield the outcome of each job as soon as it is known.

        Ends when `batches` is paused or closed and no job runs any more. Jobs that have already
        ended, or were returned to their queue, are ignored.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        use = _DeviceUse(self.manager)

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(changed.set)

        with self.batches.calling(wake):
            while True:
                changed.clear()
                for inferred in self._take_ended(use):
                    yield inferred
                jobs = self._take_ready(use)
                if jobs:
                    use.enter(jobs)
                for job in jobs:
                    if (reason := self._reason_to_skip(job)) is None:
                        self._start(loaded, job, wake)
                    else:
                        use.leave(job, is_last=not self._running)
                        yield Inferred(job, error=reason)
                self._stop_runs()
                if not (self._running or self.batches.is_open):
                    return
                timer = loop.call_later(_CHECK_SECONDS, changed.set) if self._running else None
                await changed.wait()
                if timer is not None:
                    timer.cancel()

    def _take_ready(self, use: _DeviceUse) -> list[ReceivedJob]:
        """Take the waiting jobs that may run beside the running ones."""
        jobs, free_count = list[ReceivedJob](), self.model.max_concurrent_jobs - self.count
        while len(jobs) < free_count:
            job = self.batches.take_next(use.room([cost_of(each) for each in jobs]))
            if job is None:
                if self._running and not jobs and len(self.batches):
                    use.join_no_more()
                break
            if self.in_flight.start_job(job):
                jobs.append(job)
        return jobs

    def _reason_to_skip(self, job: ReceivedJob) -> WorkerError | None:
        job.device = self.manager.device_name
        job.mark_step("batched_ms")
        if self.shutdown.is_requested:
            return HandedBack("this worker is shutting down")
        return job.reason_to_skip()

    def _start(self, loaded: LoadedModel, job: ReceivedJob, wake: Callable[[], None]) -> None:
        if self.progress is None:
            raise TypeError(f"{self.model.name} has no progress reports")
        job.context = context = self.progress.open_context(
            job.request, job.attempt, job.check_usable, waits=False
        )

        def stop() -> None:
            context.cancel()
            self._is_stop_ordered = True
            wake()

        self.running.begin_run(job.delivery)
        self.stops.watch(job, job.request.job_id, stop)
        run = _Run(job, self.runs.clock(), is_alone=not self._running)
        for other in self._running:
            other.is_alone = False
        self._running.append(run)
        run.task = asyncio.create_task(self._run(loaded, job, context))
        run.task.add_done_callback(lambda _: wake())
        # Now, because the job may block the loop as soon as it begins.
        self._note_loop()

    async def _run(self, loaded: LoadedModel, job: ReceivedJob, context: Context) -> Inferred:
        output, failure = None, None
        started_at, started = datetime.now(UTC), time.perf_counter()
        with log_fields(job_id=job.request.job_id, model=self.model.name):
            try:
                if job.delivery.delivery_count:
                    self.notes.note_so_far(job)
                    await asyncio.to_thread(self.notes.wait, _NOTE_SECONDS)
                    started_at, started = datetime.now(UTC), time.perf_counter()
                with self.manager.telemetry.record_batch([job.span]):
                    output = await loaded.call_concurrent(job.item, context)
            except BaseException as error:  # noqa: BLE001  a model's code may raise anything
                # The frames of the traceback may reference the memory that others need.
                failure = error.with_traceback(None) if is_out_of_memory(error) else error
        ended = time.perf_counter()
        job.record_run(started_at, (ended - started) * 1000, 1)
        job.mark_step("ran_ms", ended)
        return Inferred(job, loaded, output, failure)

    def _take_ended(self, use: _DeviceUse) -> list[Inferred]:
        """Return the outcomes of the jobs that do not run any more, whose places are free."""
        ended = [run for run in self._running if run.task.done()]
        if not ended:
            return []
        together = [run.job for run in self._running]
        self._running = [run for run in self._running if not run.task.done()]
        for number, run in enumerate(ended, 1):
            use.leave(run.job, is_last=not self._running and number == len(ended))
            self.stops.unwatch(run.job)
            self.runs.note_ended(run.job)
            run.job.ran_alone = self.running.end_run(run.job.delivery, LockState.RAN)
        self._note_loop()
        return [self._outcome(run, together, use) for run in ended]

    @staticmethod
    def _outcome(run: _Run, together: Sequence[ReceivedJob], use: _DeviceUse) -> Inferred:
        if run.stopped is not None:
            return Inferred(run.job, error=run.stopped)
        inferred = run.task.result()
        error = inferred.error
        if isinstance(error, EngineLost):
            # The engine is a process of its own: no job and no load of another model can end it.
            run.job.ran_alone = run.is_alone
        if error is None or not is_out_of_memory(error) or len(together) == 1:
            return inferred
        use.note_exceeded(together)
        text = f"{len(together)} jobs together did not fit into the memory of the device"
        return Inferred(run.job, error=NotFinished(text))

    def _stop_runs(self) -> None:
        """Cancel the coroutines of the jobs that must stop."""
        if not self._is_stop_ordered and time.monotonic() < self._checked_at + _CHECK_SECONDS:
            return
        self._checked_at, self._is_stop_ordered = time.monotonic(), False
        now = self.runs.clock()
        for run in self._running:
            if run.stopped is None and (reason := self._reason_to_stop(run, now)) is not None:
                run.stopped = reason
                run.task.cancel()
            if not run.is_stuck and now > run.begun + self.runs.seconds + _END_SECONDS:
                run.is_stuck = True
                self.runs.note_stuck(run.job)
        self._note_loop()

    def _note_loop(self) -> None:
        self.runs.note_loop([run.job for run in self._running])

    def _reason_to_stop(self, run: _Run, now: float) -> WorkerError | None:
        job = run.job
        if not self.in_flight.needs_outcome(job):
            return NotFinished("this worker stopped before the job was finished")
        if job.lock.is_lost:
            return LockLost("the message lock was lost while the job ran")
        if job.is_expired(utc_now()):
            return job.expiry_error("the deadline passed while the job ran")
        if job.context is not None and job.context.is_cancelled:
            return Cancelled("the job was cancelled while it ran")
        if now > run.begun + self.runs.seconds:
            return RunTooLong.after(self.runs.seconds)
        return None
