"""Where a job stands in its queue, and how long that takes. Pure: counts and times are arguments.

Service Bus tells how many messages a queue has, not which is where. Queues are first in, first out,
so what came later than a job lies behind it: a job's position is the count less the jobs that this
process has accepted since. Jobs that other instances accepted since count as if they were before
it, so a position is never too hopeful on that account.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from gateway.queueing.pace import Pace

PATIENCE_SECONDS: Final = 5.0
"""How long it may be quiet before there seems to be no worker; with slow jobs, longer."""

PATIENCE_JOBS: Final = 4


class Phase(StrEnum):
    """What a job that has not begun waits for."""

    QUEUED = "queued"
    COLD_STARTING = "cold_starting"


@dataclass(frozen=True, slots=True)
class Count:
    """How many messages a queue had, and how many replies this process had heard by then."""

    length: int
    at_seconds: float
    replies: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands; None is what is not known, or no longer matters."""

    position: int | None = None
    eta_seconds: float | None = None
    phase: Phase | None = None

    def document(self) -> dict[str, Any]:
        """The `queue` member of the job resource."""
        return {
            "position": self.position,
            "eta_seconds": self.eta_seconds,
            "phase": self.phase.value if self.phase else None,
        }


NOWHERE: Final = Place()


def length_now(count: Count, arrivals: Sequence[float], replies: int) -> int:
    """The length since the count: what this process has accepted and heard of goes in and out."""
    later = len(arrivals) - bisect_right(arrivals, count.at_seconds)
    return max(0, count.length + later - max(0, replies - count.replies))


def position(
    count: Count, arrivals: Sequence[float], replies: int, created_at_seconds: float
) -> int:
    """The place of a job that was accepted at this time, from 1. `arrivals` are sorted times."""
    if created_at_seconds > count.at_seconds:
        between = bisect_left(arrivals, created_at_seconds) - bisect_right(
            arrivals, count.at_seconds
        )
        gone = max(0, replies - count.replies)
        return max(0, count.length + max(0, between) - gone) + 1
    behind = bisect_right(arrivals, count.at_seconds) - bisect_right(arrivals, created_at_seconds)
    return max(1, count.length - behind)


def wait_seconds(jobs: int, seconds_per_job: float | None) -> float | None:
    """How long so many jobs take, to the millisecond."""
    return None if seconds_per_job is None else round(jobs * seconds_per_job, 3)


def seems_cold(quiet_since_seconds: float, now_seconds: float, pace: Pace) -> bool:
    """Whether it has been quiet for so long that there seems to be no worker."""
    patience = max(PATIENCE_SECONDS, PATIENCE_JOBS * (pace.seconds_per_job or 0.0))
    return now_seconds - quiet_since_seconds >= patience


def retry_after_seconds(place: Place, unknown_seconds: int, longest_seconds: int) -> int:
    """When to ask again: by the estimate, in whole seconds, at least one and not for ever."""
    if place.eta_seconds is None:
        cold = place.phase is Phase.COLD_STARTING
        return (
            min(longest_seconds, max(unknown_seconds, int(PATIENCE_SECONDS)))
            if cold
            else (unknown_seconds)
        )
    return min(longest_seconds, max(1, math.ceil(place.eta_seconds)))
