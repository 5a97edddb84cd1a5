"""Gather prepared jobs into batches, and run the batches through the model.

If the model raises an error on a batch, the batch is halved again and again, until the jobs that
cause the error are found. A batch that does not fit into memory is also halved, and later batches
are smaller.
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
from worker.clock import utc_now
from worker.errors import Cancelled, DeviceLost, HandedBack, OutOfMemory
from worker.inference.loaded_model import EncodedResults, LoadedModel
from worker.inference.model_checks import ModelKind
from worker.inference.model_manager import ModelManager
from worker.memory.device_errors import is_device_lost, is_out_of_memory
from worker.memory.limits import BatchLimit
from worker.models import Context
from worker.pipeline.prepare import CancellationCheck
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.receive import InFlight, ReceivedJob
from worker.pipeline.suspects import RunLimit

_log = logging.getLogger(__name__)

_CHECK_THREAD_COUNT = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    since: float
    cost: float


class Batcher(Generic[T]):
    """Decides when to start a batch, and which items the batch contains. It reads no clock.

    The total size of a batch is at most `max_cost`, in the model's own unit. A larger item has a
    batch of its own. All items of a batch have the same priority, so that those of low priority
    delay others only by the batch that already runs.
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
        """Add an item that is ready to run. Items of low priority run after all others."""
        (self._low if is_low else self._normal).append(_Waiting(item, now, cost))

    def take_batch(self, now: float) -> list[T]:
        """Remove and return the next batch; [] if the device should wait for more items."""
        if self.wait_seconds(now) != 0.0:
            return []
        size, _ = self._measure_next()
        return [self._next.popleft().item for _ in range(size)]

    def take_normal(self) -> list[T]:
        """Remove and return the next batch at once; [] if only items of low priority wait."""
        size, _ = self._measure_next() if self._normal else (0, False)
        return [self._normal.popleft().item for _ in range(size)]

    def take_next(self, max_cost: float) -> T | None:
        """Remove and return the next item; None if its cost exceeds `max_cost`, or without one."""
        items = self._next
        return items.popleft().item if items and items[0].cost <= max_cost else None

    def wait_seconds(self, now: float) -> float | None:
        """Return how long a free device should wait for a batch; None if there are no items.

        A batch starts when it is full, or `max_wait_seconds` after its oldest item was added.
        """
        if not self._next:
            return None
        _, is_full = self._measure_next()
        return 0.0 if is_full else max(0.0, self._next[0].since + self._max_wait_seconds - now)

    def take_all(self) -> list[T]:
        """Remove and return all items that wait for a batch."""
        items = [waiting.item for waiting in chain(self._normal, self._low)]
        self._normal.clear()
        self._low.clear()
        return items

    def _measure_next(self) -> tuple[int, bool]:
        """Return how many items the next batch would contain, and whether it would be full."""
        size, cost = 0, 0.0
        for waiting in self._next:
            cost += waiting.cost
            if size and cost > self.max_cost:
                return size, True
            size += 1
            if size == self._max_batch_size or cost >= self.max_cost:
                return size, True
        return size, False

    @property
    def _next(self) -> deque[_Waiting[T]]:
        """The items from which the next batch is taken."""
        return self._normal or self._low


class BatchQueue(Generic[T]):
    """A thread-safe queue of prepared items, which returns the items in batches."""

    def __init__(self, batcher: Batcher[T], clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher = batcher
        self._clock = clock
        self._changed = threading.Condition()
        self._is_paused = False
        self._is_closed = False
        self._on_change: Callable[[], object] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the queue accepts items."""
        return not (self._is_paused or self._is_closed)

    def __len__(self) -> int:
        return len(self._batcher)

    def add_item(self, item: T, cost: float = 1.0, *, is_low: bool = False) -> bool:
        """Add an item. Return False if it is refused, because the queue is paused or closed."""
        with self._changed:
            if self._is_closed or self._is_paused:
                return False
            self._batcher.add_item(item, self._clock(), cost, is_low=is_low)
            self._notify()
            return True

    def take_batch(self, max_cost: float = inf) -> list[T]:
        """Wait for the next batch of at most `max_cost`. Return [] if paused or closed."""
        with self._changed:
            self._batcher.max_cost = max_cost
            while self.is_open:
                now = self._clock()
                if batch := self._batcher.take_batch(now):
                    return batch
                self._changed.wait(self._batcher.wait_seconds(now))
            return []

    def take_normal(self) -> list[T]:
        """Return the next batch without waiting; [] if only items of low priority wait."""
        with self._changed:
            return self._batcher.take_normal() if self.is_open else []

    def take_next(self, max_cost: float) -> T | None:
        """Remove and return the next item without waiting.

        Return None if there is none, if its cost exceeds `max_cost`, or if paused or closed.
        """
        with self._changed:
            return self._batcher.take_next(max_cost) if self.is_open else None

    @contextmanager
    def calling(self, on_change: Callable[[], object]) -> Iterator[None]:
        """Call `on_change` after each change during the `with` block, on any thread."""
        self._on_change = on_change
        try:
            yield
        finally:
            self._on_change = None

    def _notify(self) -> None:
        self._changed.notify_all()
        if (on_change := self._on_change) is not None:
            on_change()

    def pause(self) -> None:
        """Refuse items and make `take_batch` return [] until `resume` is called."""
        with self._changed:
            self._is_paused = True
            self._notify()

    def resume(self) -> None:
        """Accept items again."""
        with self._changed:
            self._is_paused = False

    def close(self) -> None:
        """Refuse items and make `take_batch` return [] from now on."""
        with self._changed:
            self._is_closed = True
            self._notify()

    def take_all(self) -> list[T]:
        """Remove and return all items that are still in the queue."""
        with self._changed:
            return self._batcher.take_all()


@dataclass(frozen=True, slots=True)
class Inferred:
    """The model's output for one job, or its error. `loaded` is None if the job did not run."""

    job: ReceivedJob
    loaded: LoadedModel | None = None
    output: Any = None
    error: BaseException | None = None

    def finish_output(self) -> EncodedResults:
        """Postprocess the output. Raises any error of the model's own code."""
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
        self._manager = manager
        self.runs = RunLimit(model.max_run_seconds)
        self._in_flight = in_flight
        self._cancellation = cancellation
        self._progress = progress
        self._checks = ThreadPoolExecutor(_CHECK_THREAD_COUNT, "check")

    def split_batch(self, batch: list[ReceivedJob]) -> Iterable[list[ReceivedJob]]:
        """Return the parts of a batch that `run_batch` takes one after another.

        The jobs of an item model run one by one; the gateway is first asked for all of them
        together whether they are still wanted. A job of a batch that once exceeded its time limit
        runs alone.
        """
        if len(batch) == 1:
            return [batch]
        if self._manager.loaded_kind() is not ModelKind.ITEM:
            slow = [job for job in batch if job.delivery.history.batch_overrun_count]
            rest = [job for job in batch if job not in slow]
            return [*([rest] if rest else []), *([job] for job in slow)]
        if self._progress is None:
            list(self._checks.map(self._cancellation.is_wanted, batch))
        return [[job] for job in batch]

    def run_batch(self, batch: list[ReceivedJob]) -> Iterator[Inferred]:
        """Run a batch, and yield the outcome of each job as soon as it is known.

        Jobs that have already ended, or were returned to their queue, are ignored.
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
            if isinstance(ran, BaseException):
                yield Inferred(job, error=ran)
            else:
                job.record_run(ran.started_at, ran.inference_ms, ran.batch_size)
                job.mark_step("ran_ms", ran.ended)
                yield Inferred(job, loaded, ran.result, ran.error)

    @contextmanager
    def _watch(self, jobs: Sequence[ReceivedJob]) -> Iterator[None]:
        spans = [job.span for job in jobs]
        for job in jobs:
            if job.stream is not None:
                job.stream.begin_run()
        with self._manager.telemetry.record_batch(spans), self.runs.timing_run(*jobs):
            yield

    def _reasons_to_skip(
        self, jobs: list[ReceivedJob]
    ) -> Iterator[tuple[ReceivedJob, BaseException | None]]:
        now = utc_now()
        if sum(self._cancellation.must_ask(job, now) for job in jobs) <= 1:
            return zip(jobs, [self._reason_to_skip(job) for job in jobs], strict=True)
        return zip(jobs, self._checks.map(self._reason_to_skip, jobs), strict=True)

    def _reason_to_skip(self, job: ReceivedJob) -> BaseException | None:
        if self._progress is None:
            # It may have been cancelled while an earlier batch kept the device busy.
            return self._cancellation.reason_to_skip(job)
        if (reason := job.reason_to_skip()) is not None:
            return reason
        if job.context is None:
            job.context = self._progress.open_context(job.request, job.attempt, job.check_usable)
        if job.context.is_cancelled:
            return Cancelled("the job was cancelled before it ran")
        return None


class _BatchItem(Protocol):
    """What is needed of a `ReceivedJob` to run it."""

    @property
    def item(self) -> Any: ...
    @property
    def cost(self) -> float: ...
    @property
    def context(self) -> Context | None: ...


ItemT = TypeVar("ItemT", bound=_BatchItem)


@dataclass(frozen=True, slots=True)
class ItemRun:
    """The outcome of one item that ran. `ended` is a value of `time.perf_counter`."""

    started_at: datetime
    inference_ms: float
    batch_size: int
    ended: float
    result: Any = None
    error: BaseException | None = None


def run_batch(
    run: Callable[[list[Any], list[Context]], Sequence[Any]],
    jobs: Sequence[ItemT],
    reason_to_skip: Callable[[ItemT], BaseException | None],
    limit: BatchLimit,
    watch: Callable[[Sequence[ItemT]], AbstractContextManager[None]] = lambda jobs: nullcontext(),
) -> Iterator[tuple[ItemT, ItemRun | BaseException]]:
    """Run jobs as one batch, and yield each outcome as soon as it is known.

    After an error of the model, the jobs run again in smaller batches. If a single job does not fit
    into memory, it runs once more while no other model of this process uses the device. No job runs
    again after the device is lost, or if the model must be unloaded while a job waits for jobs of
    other models. `reason_to_skip` is called before a job runs again; if it returns an error, the
    job ends with it, instead of an ItemRun. `watch` returns a context manager for each call.
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
) -> Generator[tuple[ItemT, BaseException], None, list[ItemT]]:
    left = []
    for job in jobs:
        if (reason := reason_to_skip(job)) is None:
            left.append(job)
        else:
            yield job, reason
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


def _cost(jobs: Sequence[_BatchItem]) -> float:
    return sum(job.cost for job in jobs)
