"""Describe the machine, and measure whether other programs disturbed a benchmark."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psutil


@dataclass(frozen=True, slots=True)
class Processors:
    """Processor times of the machine since its start, summed over all processors.

    `later - earlier`, with two objects of this class, is an object with the processor times of the
    period between the two measurements.
    """

    all_seconds: float
    stolen_seconds: float
    idle_seconds: float

    @classmethod
    def now(cls) -> Self:
        """Return the processor times since the start of the machine.

        If the operating system does not measure one of the times, this time is 0.
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


def describe_machine() -> dict[str, str]:
    """Return the date, the commit of this repository, and facts about the machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "--short", "HEAD") + _changed(),
        "processor": _processor(),
        "processors": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _changed() -> str:
    return " with local changes" if _git("status", "--porcelain", "-uno") else ""


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
