"""When jobs come: so many an hour by the hour of the day, or all at once."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

HOURS = 24
_HOUR_SECONDS = 3600.0
#: More than that would take a minute to run through.
MOST_JOBS = 2_000_000

#: Jobs an hour of the day, as parts of the busiest hour.
SHAPES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * HOURS,
    "office": (0.0,) * 7
    + (0.2, 0.6, 1.0, 1.0, 0.8, 0.5, 0.8, 1.0, 1.0, 0.7, 0.3, 0.1)
    + (0.0,) * 5,
    "evening": (0.2, 0.1) + (0.0,) * 5 + (0.1,) * 10 + (0.3, 0.6, 0.9, 1.0, 1.0, 0.8, 0.4),
}


@dataclass(frozen=True, slots=True)
class Load:
    """Jobs over one day.

    Raises:
        ValueError: not one number for each hour, a negative one, or too many jobs.
    """

    jobs_per_hour: tuple[float, ...]
    seed: int = 1
    #: So many come together, in place of what is above.
    burst: int = 0
    burst_at_seconds: float = 60.0

    def __post_init__(self) -> None:
        if len(self.jobs_per_hour) != HOURS:
            raise ValueError(
                f"one number for each of {HOURS} hours, found {len(self.jobs_per_hour)}"
            )
        if not all(0 <= jobs < float("inf") for jobs in self.jobs_per_hour) or self.burst < 0:
            raise ValueError("jobs: not less than 0")
        if not 0 < self.jobs_per_day <= MOST_JOBS:
            raise ValueError(f"jobs a day: from 1 to {MOST_JOBS:,}; the model takes each by itself")

    @classmethod
    def parse(cls, text: str, seed: int = 1) -> "Load":
        """Read ``SHAPE:N``, N jobs in the busiest hour, or 24 numbers with commas.

        Raises:
            ValueError: it is neither.
        """
        shape, colon, peak = text.partition(":")
        if colon and shape in SHAPES:
            return cls(tuple(part * _number(peak) for part in SHAPES[shape]), seed)
        numbers = text.split(",")
        if len(numbers) != HOURS:
            shapes = ", ".join(f"{name}:N" for name in SHAPES)
            raise ValueError(f"expected {shapes} or {HOURS} numbers with commas, found {text!r}")
        return cls(tuple(_number(number) for number in numbers), seed)

    @classmethod
    def at_once(cls, jobs: int) -> "Load":
        """``jobs`` that come together, a minute after the start."""
        return cls((0.0,) * HOURS, burst=jobs)

    @property
    def jobs_per_day(self) -> float:
        """How many come in a day, on average."""
        return self.burst or sum(self.jobs_per_hour)

    @property
    def busiest_per_second(self) -> float:
        """How many come in a second of the busiest hour, on average."""
        return max(self.jobs_per_hour) / _HOUR_SECONDS

    def arrivals(self, duration_seconds: float) -> Iterator[float]:
        """Yield when jobs come, in order: by chance (Poisson), the same for the same seed."""
        if self.burst:
            yield from [self.burst_at_seconds] * self.burst
            return
        chance = random.Random(self.seed)  # noqa: S311 - no secret depends on it
        busiest, now = self.busiest_per_second, 0.0
        while (now := now + chance.expovariate(busiest)) < duration_seconds:
            hour = int(now / _HOUR_SECONDS) % HOURS
            # Thinning: each hour keeps its part of the busiest one's arrivals.
            if chance.random() * busiest * _HOUR_SECONDS < self.jobs_per_hour[hour]:
                yield now


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, found {text!r}") from None
