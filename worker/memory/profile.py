"""Store the measured memory of models, so that a restarted worker need not measure it again."""

import contextlib
import json
import os
import tempfile
from bisect import bisect_left
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """The measured memory of one model: of the model without a batch, and of batches beside it.

    `peaks` has the cost of each measured batch, ascending, and the bytes that it used. The cost is
    the total size of the batch's items, in the model's own unit.
    """

    resident_bytes: int
    peaks: tuple[tuple[float, int], ...] = ()
    load_seconds: float = 0.0

    def peak_bytes(self, cost: float) -> int | None:
        """Return how many bytes a batch needs beside the model, estimated above all measured."""
        if not self.peaks:
            return None
        at = bisect_left(self.peaks, (cost, 0))
        if at < len(self.peaks):
            return self.peaks[at][1]
        last_cost, last_bytes = self.peaks[-1]
        return int(last_bytes * cost / last_cost) + 1

    def is_measured(self, cost: float) -> bool:
        """Return whether a batch of this cost, or of a higher one, was measured."""
        return bool(self.peaks) and cost <= self.peaks[-1][0]

    def largest_cost(self, device_bytes: int) -> float:
        """Return the highest cost of a batch with which the model fits into `device_bytes`.

        The result is 0 if no batch fits. It is infinite if no batch was measured, or if the largest
        one needed no memory.
        """
        left_bytes = device_bytes - self.resident_bytes
        if left_bytes < 0:
            return 0.0
        fitting = [cost for cost, size_bytes in self.peaks if size_bytes <= left_bytes]
        if len(fitting) < len(self.peaks):
            return fitting[-1] if fitting else 0.0
        if not self.peaks or self.peaks[-1][1] == 0:
            return inf
        last_cost, last_bytes = self.peaks[-1]
        return last_cost * left_bytes / last_bytes

    def needed_bytes(self, cost: float) -> int:
        """Return how many bytes the loaded model and one running batch need together."""
        return self.resident_bytes + (self.peak_bytes(cost) or 0)

    def with_peak(self, cost: float, size_bytes: int) -> "MemoryProfile":
        """Return a copy with one more measurement, at least as high as those of lower costs."""
        peaks = dict(self.peaks)
        peaks[cost] = max(size_bytes, peaks.get(cost, 0))
        rising: list[tuple[float, int]] = []
        for at, size in sorted(peaks.items()):
            rising.append((at, max(size, rising[-1][1] if rising else 0)))
        return MemoryProfile(self.resident_bytes, tuple(rising), self.load_seconds)


class MemoryProfiles:
    """Stores the memory profiles of models, each as a JSON file in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder

    def get(self, key: str) -> MemoryProfile | None:
        """Return the profile that is stored under this key; None if there is no valid one."""
        try:
            document = json.loads(self._path(key).read_bytes())
            profile = MemoryProfile(
                resident_bytes=int(document["resident_bytes"]),
                peaks=tuple((float(cost), int(size)) for cost, size in document["peaks"]),
                load_seconds=float(document["load_seconds"]),
            )
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            return None
        return profile if _is_valid(profile) else None

    def put(self, key: str, profile: MemoryProfile) -> None:
        """Store a profile. An error is ignored, because the next start can measure again."""
        with contextlib.suppress(OSError):
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(profile), file)
            Path(name).replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _is_valid(profile: MemoryProfile) -> bool:
    costs = [cost for cost, _ in profile.peaks]
    sizes = [size for _, size in profile.peaks]
    return (
        profile.resident_bytes >= 0
        and all(isfinite(cost) and cost > 0 for cost in costs)
        and all(size >= 0 for size in sizes)
        and costs == sorted(set(costs))
        and sizes == sorted(sizes)
        and isfinite(profile.load_seconds)
        and profile.load_seconds >= 0
    )
