"""Suspend processes with SIGSTOP, and wait until they have stopped."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

_SECONDS: Final = 10.0
_STOPPED: Final = frozenset("TtZX")


def suspend(*pids: int) -> None:
    """Suspend processes, and return when none of their threads runs any more.

    `os.kill` returns earlier: a thread may still answer a request in the milliseconds after it.
    """
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    ends_at = time.monotonic() + _SECONDS
    while not all(_is_stopped(pid) for pid in pids):
        assert time.monotonic() < ends_at, f"a process has not stopped: {pids}"
        threading.Event().wait(0.001)


def suspend_group(group: int) -> None:
    """Suspend the processes of a process group, as `suspend` does."""
    suspend(*_members(group))


def _members(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found


def _is_stopped(pid: int) -> bool:
    return all(_state(file) in _STOPPED for file in Path(f"/proc/{pid}/task").glob("*/stat"))


def _state(stat: Path) -> str:
    try:
        # The name of the thread is in parentheses, and may contain some.
        return stat.read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
