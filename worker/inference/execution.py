"""One batch through the model: an outcome for each of its jobs, whatever the model raises.

A batch that raises is halved until the jobs are found that it raises on: for few bad ones among
many, that is a few passes. A batch that does not fit into memory is halved alike, and the model's
batches are smaller from then on. On a device that is lost nothing is tried again.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from worker.errors import DeviceLost, OutOfMemory
from worker.inference.lost_device import is_device_lost
from worker.memory.allowance import Allowance
from worker.memory.errors import is_out_of_memory
from worker.models import Context

_log = logging.getLogger(__name__)


class Item(Protocol):
    """What is run: a job."""

    @property
    def item(self) -> Any:
        """The prepared input."""
        ...

    @property
    def cost(self) -> float:
        """What it costs of a batch, in the model's own unit."""
        ...

    @property
    def context(self) -> Context | None:
        """There where the model reports how far it is."""
        ...


T = TypeVar("T", bound=Item)
Run = Callable[[list[Any], list[Context]], Sequence[Any]]
Watching = Callable[[Sequence[T]], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one item: its result, or the error that the model raised on it alone."""

    started_at: datetime
    inference_ms: float
    batch_size: int
    result: Any = None
    error: BaseException | None = None


def execute(
    run: Run,
    jobs: Sequence[T],
    is_worth_running: Callable[[T], bool],
    allowance: Allowance,
    watching: Watching[T] = lambda jobs: nullcontext(),
) -> Iterator[tuple[T, Ran]]:
    """Run the jobs as one batch, and as smaller ones where it raises.

    Each outcome is given as soon as it is there. Before a job is run again it is asked about; one
    that is not worth it any more gets no outcome, since who was asked has ended it. A job for
    which even alone there is no memory is tried once more when nothing else runs. `watching` is
    around each pass of the model.
    """
    waiting, too_large = [list(jobs)], list[T]()
    while waiting:
        part = waiting.pop()
        if not part:
            continue
        passed = _try(run, part, allowance, watching)
        error = passed.error
        if isinstance(error, DeviceLost):
            for lost in (part, *waiting, too_large):
                yield from passed.outcomes(lost)
            return
        if error is None or (len(part) == 1 and not is_out_of_memory(error)):
            yield from passed.outcomes(part)
            continue
        if is_out_of_memory(error):
            allowance.exceeded(_cost(part), max(map(_cost, _halves(part))))
            if len(part) == 1:
                too_large += part
                continue
        else:
            _log.warning("a batch of %d raised, looking for the job that it raises on", len(part))
        # The error may have been one job's end, as when it was cancelled: the others go on at once.
        left = [job for job in part if is_worth_running(job)]
        waiting += [left] if len(left) < len(part) else reversed(_halves(left))
    for job in too_large:
        if is_worth_running(job):
            yield from _try(run, [job], allowance, watching, alone=True).outcomes([job])


@dataclass(frozen=True, slots=True)
class _Pass:
    started_at: datetime
    inference_ms: float
    results: Sequence[Any] = ()
    error: BaseException | None = None

    def outcomes(self, jobs: Sequence[T]) -> Iterator[tuple[T, Ran]]:
        error = self.error
        if error is not None and is_out_of_memory(error):
            error = OutOfMemory("this input takes more memory than the worker's device has")
        results = self.results if error is None else [None] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            yield job, Ran(self.started_at, self.inference_ms, len(jobs), result, error)


def _try(
    run: Run,
    jobs: Sequence[T],
    allowance: Allowance,
    watching: Watching[T],
    *,
    alone: bool = False,
) -> _Pass:
    started_at, begun = datetime.now(UTC), time.perf_counter()
    contexts = [job.context for job in jobs if job.context is not None]
    try:
        with allowance.running(_cost(jobs), alone=alone), watching(jobs):
            results = run([job.item for job in jobs], contexts)
    except BaseException as error:  # noqa: BLE001  the edge: a model's code may raise anything
        if is_device_lost(error):
            _log.error("the device failed for good", exc_info=error)
            return _Pass(started_at, _ms_since(begun), error=DeviceLost(type(error).__name__))
        # Its frames hold the batch's tensors, which whoever runs next may need the memory of.
        kept = error if not is_out_of_memory(error) else error.with_traceback(None)
        return _Pass(started_at, _ms_since(begun), error=kept)
    return _Pass(started_at, _ms_since(begun), results)


def _halves(jobs: Sequence[T]) -> list[list[T]]:
    middle = (len(jobs) + 1) // 2
    return [part for part in (list(jobs[:middle]), list(jobs[middle:])) if part]


def _cost(jobs: Sequence[Item]) -> float:
    return sum(job.cost for job in jobs)


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
