"""One batch through the model: an outcome for each of its jobs, whatever the model raises."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from contract.fields import Json
from worker.inference.runner import Runner
from worker.messages.job import Job

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one item: its result, or the error that the model raised on it alone."""

    started_at: datetime
    inference_ms: float
    batch_size: int
    result: Json = None
    error: Exception | None = None


def execute(
    runner: Runner, jobs: Sequence[Job], is_worth_running: Callable[[Job], bool]
) -> Iterator[tuple[Job, Ran]]:
    """Run the jobs as one batch; where it raises, one by one, so that only the bad one fails.

    Each outcome is given as soon as it is there. Before a job is run again it is asked about; one
    that is not worth it any more gets no outcome, since who was asked has ended it.
    """
    if not jobs:
        return
    started_at, begun = datetime.now(UTC), time.perf_counter()
    try:
        contexts = [job.context for job in jobs if job.context is not None]
        results = runner.run([job.item for job in jobs], contexts)
    except Exception as error:  # noqa: BLE001  the edge: a model's code may raise anything
        if len(jobs) == 1:
            yield jobs[0], Ran(started_at, _ms_since(begun), 1, error=error)
            return
        _log.warning("a batch of %d raised, running its jobs singly", len(jobs))
        for job in jobs:
            if is_worth_running(job):
                yield from execute(runner, [job], is_worth_running)
        return
    inference_ms = _ms_since(begun)
    for job, result in zip(jobs, results, strict=True):
        yield job, Ran(started_at, inference_ms, len(jobs), result)


def _ms_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
