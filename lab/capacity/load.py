"""The times at which simulated jobs arrive: at a rate for each hour, or all at the same time."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

HOURS = 24
_HOUR_SECONDS = 3600.0
#: The maximum number of jobs. The simulation of this number of jobs lasts about a minute.
MAX_JOBS = 2_000_000

#: The number of jobs in each hour of the day, relative to the busiest hour.
SHAPES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * HOURS,
    "office": (0.0,) * 7
    + (0.2, 0.6, 1.0, 1.0, 0.8, 0.5, 0.8, 1.0, 1.0, 0.7, 0.3, 0.1)
    + (0.0,) * 5,
    "evening": (0.2, 0.1) + (0.0,) * 5 + (0.1,) * 10 + (0.3, 0.6, 0.9, 1.0, 1.0, 0.8, 0.4),
}


@dataclass(frozen=True, slots=True)
class JobLoad:
    """The number of jobs that arrive in each hour of a day.

    Raises:
        ValueError: The load does not have one number for each hour, a number is negative or
            infinite, or the day has no jobs or too many jobs.
    """

    jobs_per_hour: tuple[float, ...]
    seed: int = 1
    #: If not 0, this number of jobs arrives at once, and ``jobs_per_hour`` is not used.
    burst: int = 0
    burst_at_seconds: float = 60.0

    def __post_init__(self) -> None:
        if len(self.jobs_per_hour) != HOURS:
            raise ValueError(
                f"the load: expected {HOURS} numbers, one per hour, found {len(self.jobs_per_hour)}"
            )
        if not all(0 <= jobs < float("inf") for jobs in self.jobs_per_hour) or self.burst < 0:
            raise ValueError(
                "the load: expected finite numbers of at least 0, found "
                f"{self.burst or self.jobs_per_hour}"
            )
        if not 0 < self.jobs_per_day <= MAX_JOBS:
            raise ValueError(
                f"jobs per day: expected 1 to {MAX_JOBS:,}, found {self.jobs_per_day:,.0f}"
            )

    @classmethod
    def parse(cls, text: str, seed: int = 1) -> "JobLoad":
        """Return the load that ``text`` describes: ``SHAPE:N``, or 24 numbers separated by commas.

        SHAPE is a name in ``SHAPES``, and N is the number of jobs in the busiest hour. ``seed`` is
        the seed of the random arrival times.

        Raises:
            ValueError: The text has neither format, or a number is out of range.
        """
        shape, colon, peak = text.partition(":")
        if colon and shape in SHAPES:
            return cls(tuple(part * _parse_number(peak) for part in SHAPES[shape]), seed)
        numbers = text.split(",")
        if len(numbers) != HOURS:
            shapes = ", ".join(f"{name}:N" for name in SHAPES)
            raise ValueError(
                f"the load: expected {shapes} or {HOURS} comma-separated numbers, found {text!r}"
            )
        return cls(tuple(_parse_number(number) for number in numbers), seed)

    @classmethod
    def at_once(cls, jobs: int) -> "JobLoad":
        """Return a load whose jobs all arrive one minute after the start of the simulation."""
        return cls((0.0,) * HOURS, burst=jobs)

    @property
    def jobs_per_day(self) -> float:
        """The average number of jobs in a simulated day."""
        return self.burst or sum(self.jobs_per_hour)

    @property
    def busiest_per_second(self) -> float:
        """The jobs per second in the busiest hour; 0 for a load that arrives at once."""
        return max(self.jobs_per_hour) / _HOUR_SECONDS

    def arrivals(self, duration_seconds: float) -> Iterator[float]:
        """Yield the arrival times of the jobs, in seconds after the start of the simulation.

        If `at_once` made this load, all jobs arrive at the same time. Otherwise the jobs arrive as
        a Poisson process until ``duration_seconds``. Two loads with the same ``seed`` and rates
        have the same arrival times.
        """
        if self.burst:
            yield from [self.burst_at_seconds] * self.burst
            return
        chance = random.Random(self.seed)
        busiest, now = self.busiest_per_second, 0.0
        while (now := now + chance.expovariate(busiest)) < duration_seconds:
            hour = int(now / _HOUR_SECONDS) % HOURS
            # Thinning: arrivals are drawn at the rate of the busiest hour. A random choice keeps a
            # fraction of them, so that each hour has its own rate.
            if chance.random() * busiest * _HOUR_SECONDS < self.jobs_per_hour[hour]:
                yield now


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"the load: expected a number, found {text!r}") from None
