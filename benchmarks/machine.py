"""Processor times of the machine. They show whether other programs disturbed a run."""

from dataclasses import dataclass
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Processors:
    """The times of all processors since the machine started, in seconds of one processor."""

    all_seconds: float
    stolen_seconds: float
    idle_seconds: float

    @classmethod
    def now(cls) -> Self:
        """Read the processors' times. A time that the system does not provide is 0."""
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
        """The time that all programs of this machine used, in seconds of one processor."""
        return self.all_seconds - self.stolen_seconds - self.idle_seconds

    @property
    def stolen_share(self) -> float:
        """The share of the processors' time that the hypervisor gave to other machines."""
        return self.stolen_seconds / self.all_seconds if self.all_seconds else 0.0


def process_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
