"""Set up this process: numbers of threads, thread switching, and the C memory allocator."""

import ctypes
import os
import sys
from collections.abc import MutableMapping

# Also with few processors: the threads mostly wait for inputs from blob storage.
_MIN_PREPARING, _MAX_PREPARING = 4, 16
_MAX_TORCH = 8
_SWITCH_SECONDS = 0.0005

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1024 * 1024 * 1024


def available_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def preparing_threads(processor_count: int) -> int:
    """Return how many inputs of a model are fetched, decoded and preprocessed at the same time."""
    return max(_MIN_PREPARING, min(processor_count, _MAX_PREPARING))


def torch_threads(processor_count: int) -> int:
    """Return how many threads run a model on the CPU by default.

    Half the processors: the others decode, serve the queues, and run other programs. Two threads on
    two busy processors are slower than one.
    """
    return max(1, min(processor_count // 2, _MAX_TORCH))


def prefer_device_thread(environ: MutableMapping[str, str]) -> None:
    """Set up the process so that other threads do not delay the device thread.

    Call this before torch is imported. The device thread takes the interpreter's lock hundreds of
    times in a batch. With Python's default of 5 ms, each busy thread could delay it that long each
    time. OpenMP's threads by default spin while they wait, on processors that others need.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_large_blocks() -> None:
    """Let the C allocator keep large blocks, if the C library is glibc.

    A batch's activations take some megabytes each. By default glibc maps and unmaps each block, and
    gives each thread an arena of its own: the page faults made a batch of eight cost 40 ms of CPU
    time per image instead of 25 ms.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)
