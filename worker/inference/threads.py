"""How many threads of each kind: enough to keep the device busy, too few to fight one another."""

import os


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def preparing_threads() -> int:
    """How many inputs are fetched, decoded and preprocessed at the same time, for each model."""
    return 4
