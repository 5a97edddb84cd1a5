"""Measure processor times, to see whether other programs disturbed a benchmark."""

from dataclasses import dataclass
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Processors:
    """The processor times of the machine since its start, summed over all processors.

    Subtract an earlier object from a later object to get the processor times of the period between
    the two measurements.
    """

    all_seconds: float
    stolen_seconds: float
    idle_seconds: float

    @classmethod
    def now(cls) -> Self:
        """Return the processor times since the start of the machine.

        A time that the operating system does not measure is 0.
        """
        times = psutil.cpu_times()
        return cls(
            all_seconds=sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0),
            stolen_seconds=getattr(times, "steal", 0.0),
            idle_seconds=times.idle + getattr(times, "iowait", 0.0),
        )

    def __sub__(self, earlier: "Processors") -> "Processors":
        return Processors(
            self.all_seconds - earlier.all_seconds,
            self.stolen_seconds - earlier.stolen_seconds,
            self.idle_seconds - earlier.idle_seconds,
        )

    @property
    def used_seconds(self) -> float:
        """The processor time in seconds that all programs of this machine have used."""
        return self.all_seconds - self.stolen_seconds - self.idle_seconds

    @property
    def stolen_share(self) -> float:
        """The fraction of the processor time that other virtual machines used, from 0 to 1."""
        return self.stolen_seconds / self.all_seconds if self.all_seconds else 0.0


def process_seconds(pid: int) -> float:
    """Return the processor time in seconds that a process has used since its start."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
