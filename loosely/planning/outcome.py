"""What came of a run of the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_HOUR_SECONDS = 3600.0
_PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at one moment."""

    at_seconds: float
    waiting: int
    asked: int
    ready: int
    nodes: int


@dataclass(slots=True)
class Outcome:
    """Sums over a run. Waits are until a batch begins, answers until it ends."""

    jobs: int = 0
    unanswered: int = 0
    waits_seconds: list[float] = field(default_factory=list)
    answers_seconds: list[float] = field(default_factory=list)
    busy_seconds: float = 0.0
    node_seconds: float = 0.0
    most_ready: int = 0
    most_nodes: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def node_hours(self) -> float:
        """How long nodes were there, from their request on: that is what is billed."""
        return self.node_seconds / _HOUR_SECONDS

    @property
    def busy_hours(self) -> float:
        """How long devices worked."""
        return self.busy_seconds / _HOUR_SECONDS

    @property
    def mean_answer_seconds(self) -> float:
        """From arrival to answer, on average."""
        return (
            sum(self.answers_seconds) / len(self.answers_seconds) if self.answers_seconds else 0.0
        )

    def document(self) -> dict[str, Any]:
        """All of it but the samples, for programs."""
        return {
            "jobs": self.jobs,
            "unanswered": self.unanswered,
            "wait_seconds": percentiles(self.waits_seconds),
            "answer_seconds": percentiles(self.answers_seconds),
            "gpu_hours": round(self.node_hours, 3),
            "busy_hours": round(self.busy_hours, 3),
            "peak_workers": self.most_ready,
            "peak_nodes": self.most_nodes,
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum, by the nearest rank; empty without values."""
    if not values:
        return {}
    ranked = sorted(values)
    found = {f"p{p}": round(ranked[math.ceil(len(ranked) * p / 100) - 1], 3) for p in _PERCENTS}
    return {**found, "max": round(ranked[-1], 3)}
