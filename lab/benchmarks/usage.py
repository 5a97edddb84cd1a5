"""Measure what a load uses in all processes of a system: processor, memory and storage."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from lab.benchmarks.machine import process_seconds
from lab.benchmarks.peaks import peak_mb
from loosely.local.data_directory import RunningSystem
from tests.e2e.system import System

_STORES = ("functions", "servicebus", "blobs")
_DATABASES = (".db", ".sqlite", ".sqlite3")
_LOGS = ("-wal", "-shm", "-journal")
_RESET_PEAK = "5"


@dataclass
class Usage:
    """What a load has used, by the name of the process or of the store.

    `memory_mb` has the resident memory before the load, and its peak meanwhile. In this module, 1
    MB is 2**20 bytes.
    """

    seconds: float = 0.0
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, tuple[float, float]] = field(default_factory=dict)
    stored_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def cpu_total_seconds(self) -> float:
        """The processor time of all processes of the system."""
        return sum(self.cpu_seconds.values())

    @property
    def growth_mb(self) -> dict[str, float]:
        """How much more memory each process used at its peak than before."""
        return {name: peak - before for name, (before, peak) in self.memory_mb.items()}

    def cpu_ms(self, count: int) -> float:
        """Return the processor time of one of `count` jobs or lines in ms."""
        return self.cpu_total_seconds / count * 1000

    def show_cpu(self, count: int) -> str:
        """Return the processor time of one of `count` jobs or lines as text."""
        each = ", ".join(
            f"{name} {seconds / count * 1000:.2f}"
            for name, seconds in self.cpu_seconds.items()
            if seconds / count >= 5e-6
        )
        return f"{self.cpu_ms(count):.2f} ms ({each})"

    def show_stored(self, count: int) -> str:
        """Return the stored bytes of one of `count` jobs or lines as text."""
        each = ", ".join(f"{name} {size / count:,.0f}" for name, size in self.stored_bytes.items())
        return f"{sum(self.stored_bytes.values()) / count:,.0f} bytes ({each})"


@contextmanager
def watching(system: System) -> Iterator[Usage]:
    """Measure what a system uses during the `with` block."""
    processes = _processes(system)
    for process in processes.values():
        _reset_peak(process.pid)
    cpu = {name: process_seconds(each.pid) for name, each in processes.items()}
    memory = {name: each.memory_info().rss / 2**20 for name, each in processes.items()}
    stored, begun, usage = _stored_bytes(system.data), time.perf_counter(), Usage()
    yield usage
    usage.seconds = time.perf_counter() - begun
    for name, each in processes.items():
        usage.cpu_seconds[name] = process_seconds(each.pid) - cpu[name]
        usage.memory_mb[name] = (memory[name], peak_mb(each.pid))
    usage.stored_bytes = {
        name: size - stored[name] for name, size in _stored_bytes(system.data).items()
    }


def _processes(system: System) -> dict[str, psutil.Process]:
    running = RunningSystem.read(system.data)
    assert running is not None, "up.json describes no running system"
    found = {"supervisor": psutil.Process(running.pid)}
    for name, part in running.parts.items():
        found[name] = psutil.Process(part.pid)
        for number, child in enumerate(found[name].children(recursive=True)):
            found[f"{name} child{number or ''}"] = child
    return found


def _reset_peak(pid: int) -> None:
    """Let the kernel record the peak memory of a process anew: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="ascii")


def _stored_bytes(data: Path) -> dict[str, int]:
    return {
        name: sum(_used_bytes(each) for each in (data / name).rglob("*") if each.is_file())
        for name in _STORES
    }


def _used_bytes(path: Path) -> int:
    """Return the size of a file, or of the pages of a database that are in use.

    A write-ahead log has changes that are counted in its database.
    """
    if path.name.endswith(_LOGS):
        return 0
    if path.suffix not in _DATABASES:
        return path.stat().st_size
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        pages, free, page_bytes = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * page_bytes)
