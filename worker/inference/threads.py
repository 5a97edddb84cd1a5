"""How many threads of each kind: enough to keep the device busy, too few to fight one another."""

import os
import sys
from collections.abc import MutableMapping

# Also on few processors: a thread mostly waits for its input to come from blob storage.
_LEAST_PREPARING, _MOST_PREPARING = 4, 16
_MOST_TORCH = 8
_SWITCH_SECONDS = 0.0005


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def preparing_threads(processor_count: int) -> int:
    """How many inputs of a model are fetched, decoded and preprocessed at the same time."""
    return max(_LEAST_PREPARING, min(processor_count, _MOST_PREPARING))


def torch_threads(processor_count: int) -> int:
    """How many threads run a model on the CPU, where TORCH_THREADS says nothing.

    Half the processors: the others decode, talk to the queue and serve whatever runs beside the
    worker. Two threads on two busy processors are slower than one.
    """
    return max(1, min(processor_count // 2, _MOST_TORCH))


def prefer_the_device(environ: MutableMapping[str, str]) -> None:
    """Set this process up so that the device's thread waits for no other. Before torch is there.

    That thread takes the interpreter's lock hundreds of times a batch: at Python's 5 ms each busy
    thread beside it could keep the device waiting for as long, each time. OpenMP's threads by
    default spin while they wait, on processors that others need.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
