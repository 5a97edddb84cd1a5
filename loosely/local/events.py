"""Events of the running components, for the console and for `up.json`."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from loosely.local.parts import Part


@dataclass(frozen=True, slots=True)
class PartStarted:
    """The component's process was started."""

    part: Part
    pid: int


@dataclass(frozen=True, slots=True)
class PartReady:
    """The component became ready ``seconds`` after its start.

    ``is_restart`` is true if the component had died before.
    """

    part: Part
    seconds: float
    is_restart: bool


@dataclass(frozen=True, slots=True)
class PartSlow:
    """The component is still not ready ``seconds`` after its start."""

    part: Part
    seconds: float
    last_line: str


@dataclass(frozen=True, slots=True)
class PartDied:
    """The component's process has ended by itself and will be restarted."""

    part: Part
    exit_code: int
    last_line: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartStopping:
    """The component was asked to stop."""

    part: Part


@dataclass(frozen=True, slots=True)
class PartStopped:
    """The component has stopped.

    ``is_killed`` is true if it was killed because it did not stop by itself.
    """

    part: Part
    seconds: float
    is_killed: bool


@dataclass(frozen=True, slots=True)
class PartGivenUp:
    """A worker of the pool could not be started. The pool gives it up and replaces it."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class PoolScaled:
    """The worker pool has a new size, because ``messages`` messages are in the queues."""

    part: Part
    before: int
    after: int
    messages: int


@dataclass(frozen=True, slots=True)
class QueueCountsUnknown:
    """The lengths of the queues could not be read for a while. The worker pool keeps its size."""

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
    """Describe an exit code in words. As in :mod:`subprocess`, a negative code is a signal."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
