"""How fast a model's jobs get done, from the replies alone. Pure: the time is an argument.

Two figures, both in seconds a job, both weighted means that forget:

    pace   how long the workers were busy for each job: the time since the reply before, but no
           longer than the job itself was with its worker. Under a backlog that is the reciprocal of
           the throughput, with all workers and batches in it; without one, a job's own time. The
           time in which there was no worker is not in it.
    cost   how long a device computed for each job: the time of a batch over its size.

One process sees its own replies only. Where several instances of the app share a model's replies,
the pace of each is too slow by up to their number; the cost is not.
"""

import math
from dataclasses import dataclass
from typing import Final

KEPT: Final = 0.97
"""What is left of a figure's weight after each reply: about the last thirty count."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one reply tells: when it came, how long its worker had the job, how long it computed."""

    at_seconds: float
    held_seconds: float
    inference_seconds: float
    batch_size: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Sums over the replies so far, the older the lighter."""

    weight: float = 0.0
    busy_seconds: float = 0.0
    device_seconds: float = 0.0
    last_reply_at_seconds: float | None = None

    @property
    def seconds_per_job(self) -> float | None:
        """How long a job in the queue takes to go; None before the first reply."""
        return self.busy_seconds / self.weight if self.weight else None

    @property
    def least_seconds_per_job(self) -> float | None:
        """The more favourable of the two figures: what holds whatever other instances see."""
        if not self.weight:
            return None
        return min(self.busy_seconds, self.device_seconds) / self.weight

    def after(self, reply: Reply) -> "Pace":
        """The pace with one more reply."""
        held = _seconds(reply.held_seconds)
        gap = held
        if self.last_reply_at_seconds is not None:
            # A clock that was set back tells nothing.
            gap = max(0.0, reply.at_seconds - self.last_reply_at_seconds)
        cost = _seconds(reply.inference_seconds) / max(1, reply.batch_size)
        return Pace(
            self.weight * KEPT + 1.0,
            self.busy_seconds * KEPT + min(gap, held),
            self.device_seconds * KEPT + cost,
            reply.at_seconds,
        )


def _seconds(value: float) -> float:
    # Workers measure; what they send need not be sense.
    return max(0.0, value) if math.isfinite(value) else 0.0
