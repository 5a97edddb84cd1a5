"""Set up the worker process: its name, its threads, its allocator and its interpreter."""

import ctypes
import os
import socket
import sys
from collections.abc import MutableMapping

# The minimum applies even with few processors: the threads mostly wait for inputs from blob
# storage.
_MIN_PREPARING, _MAX_PREPARING = 4, 16
_MAX_TORCH = 8
_SWITCH_SECONDS = 0.0005

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1024 * 1024 * 1024


def worker_name(pid: int | None = None) -> str:
    """Return the name of a worker for people: the machine's (or pod's) name and the process id."""
    return f"{socket.gethostname()}-{os.getpid() if pid is None else pid}"


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def preparing_threads(processor_count: int) -> int:
    """Return how many threads prepare the inputs of one model at the same time."""
    return max(_MIN_PREPARING, min(processor_count, _MAX_PREPARING))


def torch_threads(processor_count: int) -> int:
    """Return how many threads torch uses for one model on the CPU; inputs need the others."""
    return max(1, min(processor_count // 2, _MAX_TORCH))


def prefer_device_thread(environ: MutableMapping[str, str]) -> None:
    """Keep other threads from delaying the device thread. Call this before torch's import.

    That thread acquires the interpreter's lock hundreds of times per batch. By default, each busy
    thread could delay it by 5 ms each time, and idle threads of OpenMP use processor time.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_large_blocks() -> None:
    """Make glibc's allocator reuse large blocks. Do nothing with another C library.

    A model allocates blocks of some megabytes for each batch. By default, glibc returns such blocks
    at once, and page faults increased the CPU time from 25 ms to 40 ms per image.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)
