"""Measure the memory and the open files of processes, and find out whether they grow.

The processes are grouped by role. A role is a component, or the child processes of a component. If
a component is killed and started again, its role has several processes.

For each role, a linear least-squares fit computes how fast the memory or the number of open files
grows per minute. All processes of the role have the same growth rate in the fit, but each process
has its own start value.

The fit does not use the warm-up after the start of a process, because imports, pools, caches and
the allocator's reserve still grow during this time. The time after the warm-up is divided into
buckets of 20 s. Only the lowest value of each bucket is used, so that a request that is being
processed does not count as growth.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MIB = 1024 * 1024
MIN_WARM_UP_SECONDS = 60.0
BUCKET_SECONDS = 20.0
_MIN_OBSERVED_SECONDS = 120.0


@dataclass(frozen=True)
class Slope:
    """The growth per minute of the memory (in bytes) or of the open files, and its inaccuracy.

    `error_per_minute` is the standard error of the growth.
    """

    per_minute: float
    error_per_minute: float
    observed_seconds: float

    def grows(self, bound_per_minute: float) -> bool:
        """Return whether the value grows faster than the bound by more than two standard errors."""
        return self.per_minute - 2 * self.error_per_minute > bound_per_minute

    def is_flat(self, bound_per_minute: float) -> bool:
        """Return whether the value grows no faster than the bound, and the error is below it."""
        return not self.grows(bound_per_minute) and self.error_per_minute <= bound_per_minute


@dataclass
class Life:
    """The samples of one process, from its start to its end.

    A sample has three values: the seconds since the start of the test, the memory in bytes, and the
    number of open files.
    """

    samples: list[tuple[float, int, int]] = field(default_factory=list)

    def buckets(self, column: int, warm_up_seconds: float) -> Iterator[tuple[float, float]]:
        """Divide the samples of the process into buckets of 20 s, without those of its warm-up.

        The warm-up is the time of `warm_up_seconds` after the first sample. Yield a pair for each
        bucket: the time in the middle of the bucket, in seconds, and the lowest value in the
        bucket. `column` is 1 for the memory in bytes, 2 for the open files.
        """
        if not self.samples:
            return
        begin = self.samples[0][0] + warm_up_seconds
        lowest: dict[int, float] = {}
        for sample in self.samples:
            if sample[0] >= begin:
                number = int((sample[0] - begin) // BUCKET_SECONDS)
                lowest[number] = min(lowest.get(number, math.inf), float(sample[column]))
        for number, value in lowest.items():
            yield begin + (number + 0.5) * BUCKET_SECONDS, value


def choose_warm_up(calm_seconds: float) -> float:
    """Return for how long a new process is not measured: `calm_seconds` / 4, at least 60 s.

    So a process that is started just before the calm phase is measured for most of it.
    """
    return max(MIN_WARM_UP_SECONDS, calm_seconds / 4)


def fit(lives: Iterable[Life], column: int, warm_up_seconds: float) -> Slope | None:
    """Estimate how fast the memory or the open files of a role's processes grow.

    The estimate is a linear least-squares fit. It assumes that all processes of the role have the
    same growth per minute. Their start values may differ.

    Args:
        lives: The samples of each process of the role.
        column: 1 for the memory in bytes, 2 for the open files.
        warm_up_seconds: The time after the start of each process that is not used.

    Returns:
        The growth per minute, or None if the processes were measured for less than two minutes in
        total, or in too few buckets.
    """
    squares = products = observed = 0.0
    deviations: list[tuple[float, float]] = []
    levels = 0
    for life in lives:
        points = list(life.buckets(column, warm_up_seconds))
        if len(points) < 2:
            continue
        levels += 1
        observed += len(points) * BUCKET_SECONDS
        middle = sum(time for time, _ in points) / len(points)
        level = sum(value for _, value in points) / len(points)
        for time, value in points:
            squares += (time - middle) ** 2
            products += (time - middle) * (value - level)
            deviations.append((time - middle, value - level))
    free = len(deviations) - levels - 1
    if observed < _MIN_OBSERVED_SECONDS or free < 1:
        return None
    slope = products / squares
    rest = sum((value - slope * time) ** 2 for time, value in deviations)
    error = math.sqrt(rest / free / squares)
    return Slope(slope * 60, error * 60, observed)


@dataclass(frozen=True)
class RoleFootprint:
    """The memory and the open files of the processes of one role.

    Attributes:
        role: The name of a component, or the name of the group of its child processes.
        lives: The number of processes that the role had during the test.
        peak_bytes: The largest resident memory of a process.
        memory: The growth of the memory, or None if it was not measured long enough.
        files: The growth of the number of open files, or None if it was not measured long enough.
        max_files: The largest number of open files of a process.
    """

    role: str
    lives: int
    peak_bytes: int
    memory: Slope | None
    files: Slope | None
    max_files: int


class Footprint:
    """Measures the memory and the number of open files of the processes of each role.

    A role is a component, or the child processes of a component.
    """

    def __init__(self) -> None:
        self._lives: dict[str, dict[tuple[int, float], Life]] = {}
        self._peaks: dict[str, int] = {}

    def sample(self, seconds: float, processes: Mapping[str, Iterable[psutil.Process]]) -> None:
        """Record the current memory and the current number of open files of each process.

        Args:
            seconds: The time since the start of the test, in seconds.
            processes: The processes of each role, by the name of the role.
        """
        for role, members in processes.items():
            for process in members:
                # A process may end at any moment.
                with suppress(psutil.Error, OSError):
                    key = (process.pid, process.create_time())
                    rss_bytes = process.memory_info().rss
                    life = self._lives.setdefault(role, {}).setdefault(key, Life())
                    life.samples.append((seconds, rss_bytes, process.num_fds()))
                    peak = max(rss_bytes, _peak_bytes(process.pid))
                    self._peaks[role] = max(self._peaks.get(role, 0), peak)

    def roles(self, warm_up_seconds: float) -> list[RoleFootprint]:
        """Return the peak values and the growth of each role, in the order of their first samples.

        Growth in the first `warm_up_seconds` of a process is not counted.
        """
        found = []
        for role, by_process in self._lives.items():
            lives = list(by_process.values())
            found.append(
                RoleFootprint(
                    role,
                    len(lives),
                    self._peaks[role],
                    fit(lives, 1, warm_up_seconds),
                    fit(lives, 2, warm_up_seconds),
                    max(files for life in lives for _, _, files in life.samples),
                )
            )
        return found


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process in bytes, or 0 on systems other than Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
