"""The events of the components, which `loosely up` shows and records in `up.json`."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from loosely.local.parts import Part


@dataclass(frozen=True, slots=True)
class PartStarted:
    """The process of the component was started."""

    part: Part
    pid: int


@dataclass(frozen=True, slots=True)
class PartReady:
    """The component became ready, ``seconds`` after its start."""

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
    """The component's process ended unexpectedly. A restart follows."""

    part: Part
    exit_code: int
    last_line: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartNotStarted:
    """The component's process could not be started. The start will be repeated."""

    part: Part
    reason: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartFailing:
    """The component has died ``death_count`` times in a row before it was ready."""

    part: Part
    death_count: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorLogged:
    """The component has logged an error with a traceback. ``lines`` are the lines of the log."""

    part: Part
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSetAside:
    """A worker cannot load ``model`` because of ``reason``, and serves its other models."""

    part: Part
    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelRestored:
    """A worker has loaded a model that could not be loaded before."""

    part: Part
    model: str


@dataclass(frozen=True, slots=True)
class PartStopping:
    """The component is being stopped."""

    part: Part


@dataclass(frozen=True, slots=True)
class PartHalted:
    """The component is being restarted because of ``reason``, for example a changed file."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class PartReloaded:
    """The component reads its changed files because of ``reason``, without an interruption."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class ChangeRefused:
    """A changed file is not used because of ``reason``. The component keeps running."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class PartStopped:
    """The component has stopped, or was killed, after ``seconds``."""

    part: Part
    seconds: float
    is_killed: bool


@dataclass(frozen=True, slots=True)
class PartGivenUp:
    """A worker of the pool could not be started. Another follows if the queues need it."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class PoolScaled:
    """The worker pool has changed its number of workers, for this number of queued messages."""

    part: Part
    before: int
    after: int
    messages: int


@dataclass(frozen=True, slots=True)
class QueueCountsUnknown:
    """The number of messages in the queues could not be read. The pool keeps its size."""

    part: Part
    reason: str


PartEvent = (
    PartStarted
    | PartReady
    | PartSlow
    | PartDied
    | PartNotStarted
    | PartFailing
    | ErrorLogged
    | ModelSetAside
    | ModelRestored
    | PartStopping
    | PartHalted
    | PartReloaded
    | ChangeRefused
    | PartStopped
    | PartGivenUp
    | PoolScaled
    | QueueCountsUnknown
)
EventHandler = Callable[[PartEvent], None]


def describe_exit(exit_code: int) -> str:
    """Describe an exit code in words. The negative of a signal's number means killed by it."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
