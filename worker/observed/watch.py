"""What is seen of one model: when it comes and goes, and each of its batches."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from worker.observed.metrics import ModelMetrics
from worker.observed.tracing import JobSpan, Tracing


class Traced(Protocol):
    """A job, as far as it is traced."""

    @property
    def span(self) -> JobSpan:
        """The job's span."""
        ...


class Watch:
    """Sees one model, and tells metrics and traces."""

    def __init__(self, model: str, figures: ModelMetrics, tracing: Tracing) -> None:
        self._model = model
        self._figures = figures
        self._tracing = tracing
        self.loaded = figures.loaded
        self.unloaded = figures.unloaded
        self.split = figures.split

    @contextmanager
    def batch(self, jobs: Sequence[Traced]) -> Iterator[None]:
        """Around one pass of the model; one that raises is in the traces alone."""
        begun = time.perf_counter()
        with self._tracing.batch(self._model, [job.span for job in jobs]):
            yield
        self._figures.ran(len(jobs), time.perf_counter() - begun)
