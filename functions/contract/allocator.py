"""Return memory that is free in the C library's allocator to the operating system.

After large requests, glibc's allocator keeps the freed memory for later requests. Pieces that are
still in use lie between the free pieces. Therefore the resident memory of a process with mixed load
approaches the sum of its past peaks, although the memory in use does not grow. `malloc_trim`
returns the free pages, also those between pieces in use.
"""

import ctypes
import sys
import threading
from typing import Final

TRIM_SECONDS: Final = 60.0
"""The time between two trims, in seconds."""

# If less is free, a trim is not worth the page faults of later allocations.
_MIN_FREE_BYTES: Final = 32 * 1024 * 1024


class _Statistics(ctypes.Structure):
    """glibc's `struct mallinfo2`, see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def free_bytes() -> int:
    """Return how many bytes are free in glibc's allocator; 0 if the C library is not glibc."""
    library = _find_glibc()
    return int(library.mallinfo2().fordblks) if library else 0


def trim() -> None:
    """Return free memory to the operating system. Other threads wait 0.3 ms for each MiB."""
    if library := _find_glibc():
        library.malloc_trim(0)


def start_trimming(interval_seconds: float = TRIM_SECONDS) -> None:
    """Start a daemon thread that trims once per interval if at least 32 MiB are free."""
    if _find_glibc():
        threading.Thread(
            target=_trim_repeatedly, args=(interval_seconds,), name="allocator", daemon=True
        ).start()


def _trim_repeatedly(interval_seconds: float) -> None:
    waiting = threading.Event()
    while not waiting.wait(interval_seconds):
        if free_bytes() >= _MIN_FREE_BYTES:
            trim()


def _find_glibc() -> ctypes.CDLL | None:
    """Return the C library, or None if it is not glibc 2.33 or newer."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2") or not hasattr(library, "malloc_trim"):
        return None
    library.mallinfo2.restype = _Statistics
    return library
