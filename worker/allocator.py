"""The C allocator, told to keep large blocks.

A batch's activations are some megabytes each. By default glibc maps and unmaps such blocks one by
one, and gives each thread an arena that holds none of them: the page faults made a batch of eight
cost 40 ms of CPU a picture where 25 ms suffice.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1024 * 1024 * 1024


def keep_large_blocks() -> None:
    """Set it for this process, where the C library is glibc; nothing otherwise."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, 1)
