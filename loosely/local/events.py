"""Events of the running parts, for the console and for `up.json`."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from loosely.local.parts import Part


@dataclass(frozen=True, slots=True)
class PartStarted:
    """The part's process was started."""

    part: Part
    pid: int


@dataclass(frozen=True, slots=True)
class PartReady:
    """The part is ready, ``seconds`` after its start; ``is_restart`` if it had died before."""

    part: Part
    seconds: float
    is_restart: bool


@dataclass(frozen=True, slots=True)
class PartSlow:
    """The part is not ready after ``seconds``."""

    part: Part
    seconds: float
    last_line: str


@dataclass(frozen=True, slots=True)
class PartDied:
    """The part's process has ended by itself and will be restarted."""

    part: Part
    exit_code: int
    last_line: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartStopping:
    """The part was asked to stop."""

    part: Part


@dataclass(frozen=True, slots=True)
class PartStopped:
    """The part has stopped; ``is_killed`` if it did not stop by itself."""

    part: Part
    seconds: float
    is_killed: bool


@dataclass(frozen=True, slots=True)
class PartGivenUp:
    """A worker of the pool does not start; the pool replaces it."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class PoolScaled:
    """The worker pool has a new size, for ``messages`` in the queues."""

    part: Part
    before: int
    after: int
    messages: int


@dataclass(frozen=True, slots=True)
class QueueCountsUnknown:
    """The queues could not be counted for a while; the worker pool keeps its size."""

    part: Part
    reason: str


PartEvent = (
    PartStarted
    | PartReady
    | PartSlow
    | PartDied
    | PartStopping
    | PartStopped
    | PartGivenUp
    | PoolScaled
    | QueueCountsUnknown
)
EventHandler = Callable[[PartEvent], None]


def describe_exit(exit_code: int) -> str:
    """Return an exit code in words. A negative code is a signal, as in :mod:`subprocess`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
