"""Measure whether the memory and the open files of the fuzzed services grow."""

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

MIB = 1024 * 1024
_MAX_GROWTH_BYTES, _MAX_FILES_GROWTH = 2.0 * MIB, 1.0
# Imports, pools, caches and the allocator's reserve still grow after the start.
_WARM_UP_SECONDS = 60.0
_BUCKET_SECONDS = 20.0
_MIN_BUCKETS = 6


@dataclass(frozen=True)
class Growth:
    """The growth per minute of a measured value, and the standard error of this growth."""

    per_minute: float
    error_per_minute: float

    def exceeds(self, bound_per_minute: float) -> bool:
        """Return whether the value almost certainly grows faster than `bound_per_minute`."""
        return self.per_minute - 2 * self.error_per_minute > bound_per_minute


def measure_growth(samples: Sequence[tuple[float, float]]) -> Growth | None:
    """Fit a line to samples of a value. A sample has the seconds since the start and the value.

    Only the lowest value of each 20 s counts, so that a request in progress does not look like
    growth. Return None if the samples after the warm-up span less than two minutes.
    """
    lowest: dict[int, float] = {}
    for seconds, value in samples:
        if seconds >= _WARM_UP_SECONDS:
            number = int((seconds - _WARM_UP_SECONDS) // _BUCKET_SECONDS)
            lowest[number] = min(lowest.get(number, math.inf), value)
    if len(lowest) < _MIN_BUCKETS:
        return None
    minutes = [number * _BUCKET_SECONDS / 60 for number in lowest]
    slope, intercept = statistics.linear_regression(minutes, list(lowest.values()))
    rest = sum(
        (value - intercept - slope * minute) ** 2
        for minute, value in zip(minutes, lowest.values(), strict=True)
    )
    spread = statistics.pvariance(minutes) * len(minutes)
    return Growth(slope, math.sqrt(rest / (len(minutes) - 2) / spread))


class Observer:
    """Records the memory and the open files of the services and of their child processes."""

    def __init__(self, seconds: float) -> None:
        """Observe the services for at least `seconds`."""
        self._seconds = seconds
        self._bytes: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._files: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def sample(self, seconds: float, pids: Mapping[str, int]) -> None:
        """Record the current memory and open files, `seconds` after the start of the test."""
        for name, pid in pids.items():
            process = psutil.Process(pid)
            self._record(seconds, name, [process])
            if children := process.children():
                self._record(seconds, f"child of {name}", children)

    def _record(self, seconds: float, role: str, processes: list[psutil.Process]) -> None:
        # A process may end at any moment.
        with suppress(psutil.Error, OSError):
            rss_bytes = sum(each.memory_info().rss for each in processes)
            files = sum(each.num_fds() for each in processes)
            self._bytes[role].append((seconds, rss_bytes))
            self._files[role].append((seconds, files))

    def is_complete(self, seconds: float) -> bool:
        """Return whether `seconds`, the time since the start, is enough for the measurement."""
        return seconds >= self._seconds

    def report(self) -> tuple[list[str], list[str]]:
        """Return a line for each service or child, and those lines whose values grow too fast."""
        lines, growing = [], []
        for role, samples in self._bytes.items():
            text = f"{role}: peak {max(value for _, value in samples) / MIB:.0f} MiB"
            memory, files = measure_growth(samples), measure_growth(self._files[role])
            if memory is None or files is None:
                lines.append(f"{text}, growth not measured")
                continue
            text += (
                f", memory {memory.per_minute / MIB:+.2f} ± "
                f"{memory.error_per_minute / MIB:.2f} MiB a minute, "
                f"open files {files.per_minute:+.2f} a minute"
            )
            lines.append(text)
            if memory.exceeds(_MAX_GROWTH_BYTES) or files.exceeds(_MAX_FILES_GROWTH):
                growing.append(f"memory or open files grow: {text}")
        return lines, growing
