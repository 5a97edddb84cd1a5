"""Gather prepared jobs into batches, and run the batches through the model.

`BatchQueue` gathers jobs, `InferStep` leaves out jobs that are no longer wanted, and `run_batch`
calls the model. If the model raises an error on a batch, the batch is halved again and again, until
the jobs that cause the error are found. A batch that does not fit into memory is also halved, and
later batches are smaller.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from contract.catalogue import ModelEntry
from worker.errors import Cancelled, DeviceLost, HandedBack, LockLost, NotWaitedFor, OutOfMemory
from worker.inference.loaded_model import EncodedResults, LoadedModel
from worker.inference.model_manager import ModelManager
from worker.memory.device_errors import is_device_lost, is_out_of_memory
from worker.memory.limits import BatchLimit
from worker.models import Context
from worker.pipeline.prepare import CancellationCheck
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.pipeline.suspects import RunLimit
from worker.servicebus.link import utc_now

_log = logging.getLogger(__name__)

_CHECK_THREAD_COUNT = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    since: float
    cost: float


class Batcher(Generic[T]):
    """Decides when to start a batch, and which items the batch contains.

    A batch contains at most `max_batch_size` items. The total size of its items is at most
    `max_cost`, in the model's own unit. An item that is larger than `max_cost` is the only item of
    its batch. Times are arguments, in seconds, because the class reads no clock.
    """

    def __init__(self, max_batch_size: int, max_wait_seconds: float, max_cost: float = inf) -> None:
        self._max_batch_size = max_batch_size
        self._max_wait_seconds = max_wait_seconds
        self.max_cost = max_cost
        self._normal: deque[_Waiting[T]] = deque()
        self._low: deque[_Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self._normal) + len(self._low)

    def add_item(self, item: T, now: float, cost: float = 1.0, *, is_low: bool = False) -> None:
        """Add an item that is ready to run.

        Args:
            item: The item.
            now: The current time in seconds.
            cost: The size of the item, in the model's own unit.
            is_low: Whether the item has low priority. Such items run after all other items.
        """
        (self._low if is_low else self._normal).append(_Waiting(item, now, cost))

    def take_batch(self, now: float) -> list[T]:
        """Return the next batch, and remove its items.

        The result is empty if there are no items, or if the device should wait for more items.
        """
        if self.wait_seconds(now) != 0.0:
            return []
        size, _ = self._measure_next()
        return [(self._normal or self._low).popleft().item for _ in range(size)]

    def wait_seconds(self, now: float) -> float | None:
        """Return for how many seconds a free device should wait before the next batch starts.

        A batch starts when it is full, or `max_wait_seconds` after its oldest item was added. The
        result is None if there are no items.
        """
        heads = [items[0].since for items in (self._normal, self._low) if items]
        if not heads:
            return None
        _, is_full = self._measure_next()
        return 0.0 if is_full else max(0.0, min(heads) + self._max_wait_seconds - now)

    def take_all(self) -> list[T]:
        """Remove and return all items that wait for a batch."""
        items = [waiting.item for waiting in self._in_order()]
        self._normal.clear()
        self._low.clear()
        return items

    def _measure_next(self) -> tuple[int, bool]:
        """Return how many items the next batch would contain, and whether it would be full."""
        size, cost = 0, 0.0
        for waiting in self._in_order():
            cost += waiting.cost
            if size and cost > self.max_cost:
                return size, True
            size += 1
            if size == self._max_batch_size or cost >= self.max_cost:
                return size, True
        return size, False

    def _in_order(self) -> Iterator[_Waiting[T]]:
        return chain(self._normal, self._low)


class BatchQueue(Generic[T]):
    """A thread-safe queue of prepared items, which returns the items in batches."""

    def __init__(self, batcher: Batcher[T], clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher = batcher
        self._clock = clock
        self._changed = threading.Condition()
        self._is_paused = False
        self._is_closed = False

    def add_item(self, item: T, cost: float = 1.0, *, is_low: bool = False) -> bool:
        """Add an item. Return False if the item is refused because the queue is paused or closed.

        Args:
            item: The item.
            cost: The size of the item, in the model's own unit.
            is_low: Whether the item has low priority.
        """
        with self._changed:
            if self._is_closed or self._is_paused:
                return False
            self._batcher.add_item(item, self._clock(), cost, is_low=is_low)
            self._changed.notify()
            return True

    def take_batch(self, max_cost: float = inf) -> list[T]:
        """Wait for the next batch, and return it. Return [] if the queue is paused or closed.

        Args:
            max_cost: The largest total size of the batch's items, in the model's own unit.
        """
        with self._changed:
            self._batcher.max_cost = max_cost
            while not (self._is_closed or self._is_paused):
                now = self._clock()
                if batch := self._batcher.take_batch(now):
                    return batch
                self._changed.wait(self._batcher.wait_seconds(now))
            return []

    def pause(self) -> None:
        """Refuse new items, and make `take_batch` return [], until `resume` is called."""
        with self._changed:
            self._is_paused = True
            self._changed.notify_all()

    def resume(self) -> None:
        """Undo `pause`: accept new items again, and let `take_batch` return batches again."""
        with self._changed:
            self._is_paused = False

    def close(self) -> None:
        """Refuse new items, and make `take_batch` return empty batches, from now on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take_all(self) -> list[T]:
        """Remove and return all items that are still in the queue."""
        with self._changed:
            return self._batcher.take_all()


@dataclass(frozen=True, slots=True)
class Inferred:
    """The model's output for one job, or the error that ends the job.

    Attributes:
        job: The job.
        loaded: The model that ran the job; None if the job did not run.
        output: The model's output for the job.
        error: The error that ends the job; None if the model returned an output.
    """

    job: ReceivedJob
    loaded: LoadedModel | None = None
    output: Any = None
    error: BaseException | None = None

    def finish_output(self) -> EncodedResults:
        """Postprocess the output, and return the result and the named results.

        Raises:
            ValueError: The job did not run.
            Exception: Any error that the model's own code raises.
        """
        if self.loaded is None:
            raise ValueError("the job has no output, because it did not run")
        return self.loaded.encode_output(self.output)


class InferStep:
    """Runs the batches of one model. Only the thread that runs the model may call `run_batch`."""

    def __init__(
        self,
        manager: ModelManager,
        in_flight: InFlight,
        cancellation: CancellationCheck,
        progress: ProgressReporter | None,
        model: ModelEntry,
    ) -> None:
        """Store the dependencies.

        Args:
            manager: Provides the loaded model and its batch limit.
            in_flight: The messages that were received and are not settled.
            cancellation: Asks the gateway whether a job is still wanted.
            progress: Reports the progress of jobs; None if the model does not report progress.
            model: The model's catalogue entry.
        """
        self._manager = manager
        self.runs = RunLimit(model.max_run_seconds)
        self._in_flight = in_flight
        self._cancellation = cancellation
        self._progress = progress
        self._checks = ThreadPoolExecutor(_CHECK_THREAD_COUNT, "check")

    def split_batch(self, batch: list[ReceivedJob]) -> Iterable[list[ReceivedJob]]:
        """Return the parts of a batch that `run_batch` takes one after another.

        The jobs of an item model run one by one. Before, the gateway is asked for all of them at
        the same time whether they are still wanted. A job with which an earlier batch exceeded its
        time limit runs in a batch of its own, after the others.
        """
        if len(batch) == 1:
            return [batch]
        if not self._manager.runs_items():
            slow = [job for job in batch if job.delivery.history.batch_overrun_count]
            rest = [job for job in batch if job not in slow]
            return [*([rest] if rest else []), *([job] for job in slow)]
        if self._progress is None:
            list(self._checks.map(self._cancellation.is_wanted, batch))
        return [[job] for job in batch]

    def run_batch(self, batch: list[ReceivedJob]) -> Iterator[Inferred]:
        """Run a batch, and yield the outcome of each job as soon as this outcome is known.

        If a job is no longer wanted, the job does not run, and its outcome is an error. Jobs that
        have already ended, or that the worker has returned to their queue, are ignored.
        """
        loaded = self._manager.loaded
        started = [job for job in batch if self._in_flight.start_job(job)]
        device = self._manager.device_name
        for job in started:
            job.device = device
            job.mark_step("batched_ms")
        to_run = []
        for job, reason in self._reasons_to_skip(started):
            if reason is not None:
                yield Inferred(job, error=reason)
            elif loaded is None:
                yield Inferred(job, error=HandedBack("the model was unloaded before the job ran"))
            else:
                to_run.append(job)
        if loaded is None:
            return
        limit = self._manager.limit
        for job, ran in run_batch(
            loaded.call_model, to_run, self._reason_to_skip, limit, self._watch
        ):
            if isinstance(ran, Skipped):
                yield Inferred(job, error=ran.error)
            else:
                job.record_run(ran.started_at, ran.inference_ms, ran.batch_size)
                job.mark_step("ran_ms", ran.ended)
                yield Inferred(job, loaded, ran.result, ran.error)

    @contextmanager
    def _watch(self, jobs: Sequence[ReceivedJob]) -> Iterator[None]:
        with self._manager.telemetry.record_batch(jobs), self.runs.timing_run(*jobs):
            yield

    def _reasons_to_skip(
        self, jobs: list[ReceivedJob]
    ) -> Iterator[tuple[ReceivedJob, BaseException | None]]:
        now = utc_now()
        if sum(job.is_stale(now) for job in jobs) <= 1:
            return zip(jobs, [self._reason_to_skip(job) for job in jobs], strict=True)
        return zip(jobs, self._checks.map(self._reason_to_skip, jobs), strict=True)

    def _reason_to_skip(self, job: ReceivedJob) -> BaseException | None:
        if job.lock.is_lost:
            return LockLost("the message lock was lost before the job ran")
        if job.is_expired(utc_now()):
            return job.expiry_error("the deadline passed before the job ran")
        if self._progress is not None:
            if job.context is None:
                job.context = self._progress.open_context(
                    job.request.reply_url, job.attempt, job.check_usable
                )
            if job.context.is_cancelled:
                return Cancelled("the job was cancelled before it ran")
        elif self._cancellation.is_wanted(job) is False:
            # The job was cancelled while an earlier batch kept the device busy.
            return NotWaitedFor("the caller no longer waits for this job")
        return None


class BatchItem(Protocol):
    """One item of a batch, for example a `ReceivedJob`."""

    @property
    def item(self) -> Any:
        """Return the prepared input for the model."""
        ...

    @property
    def cost(self) -> float:
        """Return the size of the prepared input, in the model's own unit, for example pixels."""
        ...

    @property
    def context(self) -> Context | None:
        """Return the context for the model's progress reports; None if there are no reports."""
        ...


ItemT = TypeVar("ItemT", bound=BatchItem)


@dataclass(frozen=True, slots=True)
class ItemRun:
    """The outcome of one item that ran.

    Attributes:
        started_at: When the batch with this item started, in UTC.
        inference_ms: How long the batch with this item ran, in milliseconds.
        batch_size: How many items the batch with this item contained.
        ended: The value of `time.perf_counter` when the model returned.
        result: The model's output for the item.
        error: The error that the model raised on the item; None if the model returned an output.
    """

    started_at: datetime
    inference_ms: float
    batch_size: int
    ended: float
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """The outcome of an item that does not run again after its batch has failed.

    Attributes:
        error: The error that ends the item's job.
    """

    error: BaseException


def run_batch(
    run: Callable[[list[Any], list[Context]], Sequence[Any]],
    jobs: Sequence[ItemT],
    reason_to_skip: Callable[[ItemT], BaseException | None],
    limit: BatchLimit,
    watch: Callable[[Sequence[ItemT]], AbstractContextManager[None]] = lambda jobs: nullcontext(),
) -> Iterator[tuple[ItemT, ItemRun | Skipped]]:
    """Run jobs as one batch. After an error of the model, run the jobs again in smaller batches.

    If a single job does not fit into memory, it runs once more while no other model of this process
    uses the device. No job runs again after the device is lost, or if the model must be unloaded
    while a job waits for jobs of other models.

    Args:
        run: Calls the model with the items and the contexts of one batch.
        jobs: The jobs of the batch.
        reason_to_skip: Called before a job runs again. If it returns an error, the job does not run
            again and ends with this error.
        limit: Limits the size of batches. The limit is reduced after a batch that did not fit into
            memory.
        watch: Returns a context manager for each call of the model, for example to record metrics.

    Yields:
        Each job with its outcome, as soon as the outcome is known.
    """
    waiting, too_large = [list(jobs)], list[ItemT]()
    while waiting:
        part = waiting.pop()
        if not part:
            continue
        passed = _run_pass(run, part, limit, watch)
        error = passed.error
        if isinstance(error, DeviceLost | HandedBack):
            for lost in (part, *waiting, too_large):
                yield from passed.outcomes(lost)
            return
        if error is None or (len(part) == 1 and not is_out_of_memory(error)):
            yield from passed.outcomes(part)
            continue
        if is_out_of_memory(error):
            limit.note_exceeded(_cost(part), max(map(_cost, _halves(part))))
            if len(part) == 1:
                too_large += part
                continue
        else:
            _log.warning(
                "a batch of %d jobs failed; the jobs run again in smaller batches, to find the job "
                "that causes the error",
                len(part),
            )
        left = yield from _yield_skipped(part, reason_to_skip)
        # If a job was skipped, it may have caused the error. So the other jobs run in one batch.
        waiting += [left] if len(left) < len(part) else reversed(_halves(left))
    for job in too_large:
        for left_job in (yield from _yield_skipped([job], reason_to_skip)):
            yield from _run_pass(run, [left_job], limit, watch, is_exclusive=True).outcomes([job])


def _yield_skipped(
    jobs: Sequence[ItemT], reason_to_skip: Callable[[ItemT], BaseException | None]
) -> Generator[tuple[ItemT, Skipped], None, list[ItemT]]:
    """Yield each job for which `reason_to_skip` returns an error. Return a list of the rest."""
    left = []
    for job in jobs:
        if (reason := reason_to_skip(job)) is None:
            left.append(job)
        else:
            yield job, Skipped(reason)
    return left


@dataclass(frozen=True, slots=True)
class _Pass:
    started_at: datetime
    started: float
    ended: float
    results: Sequence[Any] = ()
    error: BaseException | None = None

    def outcomes(self, jobs: Sequence[ItemT]) -> Iterator[tuple[ItemT, ItemRun]]:
        error = self.error
        if error is not None and is_out_of_memory(error):
            error = OutOfMemory("this input needs more memory than the worker's device has")
        results = self.results if error is None else [None] * len(jobs)
        inference_ms = (self.ended - self.started) * 1000
        for job, result in zip(jobs, results, strict=True):
            yield job, ItemRun(self.started_at, inference_ms, len(jobs), self.ended, result, error)


def _run_pass(
    run: Callable[[list[Any], list[Context]], Sequence[Any]],
    jobs: Sequence[ItemT],
    limit: BatchLimit,
    watch: Callable[[Sequence[ItemT]], AbstractContextManager[None]],
    *,
    is_exclusive: bool = False,
) -> _Pass:
    started_at, started = datetime.now(UTC), time.perf_counter()
    contexts = [job.context for job in jobs if job.context is not None]
    try:
        with limit.admit_batch(_cost(jobs), is_exclusive=is_exclusive), watch(jobs):
            results = run([job.item for job in jobs], contexts)
    except BaseException as error:  # noqa: BLE001  a model's code may raise anything
        if is_device_lost(error):
            _log.error("the device is lost: every further call will fail", exc_info=error)
            lost = DeviceLost(type(error).__name__)
            return _Pass(started_at, started, time.perf_counter(), error=lost)
        # The frames of the traceback reference the batch's tensors, whose memory the next pass may
        # need.
        kept = error if not is_out_of_memory(error) else error.with_traceback(None)
        return _Pass(started_at, started, time.perf_counter(), error=kept)
    return _Pass(started_at, started, time.perf_counter(), results)


def _halves(jobs: Sequence[ItemT]) -> list[list[ItemT]]:
    middle = (len(jobs) + 1) // 2
    return [part for part in (list(jobs[:middle]), list(jobs[middle:])) if part]


def _cost(jobs: Sequence[BatchItem]) -> float:
    return sum(job.cost for job in jobs)
