"""The events of the components, which `loosely up` shows and records in `up.json`."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from loosely.local.parts import Part


@dataclass(frozen=True, slots=True)
class PartEvent:
    """An event of a component."""

    part: Part


@dataclass(frozen=True, slots=True)
class _ExplainedEvent(PartEvent):
    reason: str


class PartStopping(PartEvent):
    """The component is being stopped."""


class PartHalted(_ExplainedEvent):
    """The component is being restarted, for example because of a changed file."""


class PartReloaded(_ExplainedEvent):
    """The component reads its changed files without an interruption."""


class ChangeRefused(_ExplainedEvent):
    """A changed file is not used. The component keeps running."""


class PartGivenUp(_ExplainedEvent):
    """A worker of the pool could not be started. Another follows if the queues need it."""


class QueueCountsUnknown(_ExplainedEvent):
    """The number of messages in the queues could not be read. The pool keeps its size."""


@dataclass(frozen=True, slots=True)
class PartStarted(PartEvent):
    """The process of the component was started."""

    pid: int


@dataclass(frozen=True, slots=True)
class PartReady(PartEvent):
    """The component became ready, ``seconds`` after its start."""

    seconds: float
    is_restart: bool


@dataclass(frozen=True, slots=True)
class PartSlow(PartEvent):
    """The component is still not ready ``seconds`` after its start."""

    seconds: float
    last_line: str


@dataclass(frozen=True, slots=True)
class PartDied(PartEvent):
    """The component's process ended unexpectedly. A restart follows."""

    exit_code: int
    last_line: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartNotStarted(_ExplainedEvent):
    """The component's process could not be started. The start will be repeated."""

    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class PartFailing(PartEvent):
    """The component has died ``death_count`` times in a row before it was ready."""

    death_count: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ErrorLogged(PartEvent):
    """The component has logged an error with a traceback. ``lines`` are the lines of the log."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelSetAside(PartEvent):
    """A worker cannot load ``model`` because of ``reason``, and serves its other models."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelRestored(PartEvent):
    """A worker has loaded a model that could not be loaded before."""

    model: str


@dataclass(frozen=True, slots=True)
class PartStopped(PartEvent):
    """The component has stopped, or was killed, after ``seconds``."""

    seconds: float
    is_killed: bool


@dataclass(frozen=True, slots=True)
class PoolScaled(PartEvent):
    """The worker pool has changed its number of workers, for this number of queued messages."""

    before: int
    after: int
    messages: int


EventHandler = Callable[[PartEvent], None]


def describe_exit(exit_code: int) -> str:
    """Describe an exit code in words. The negative of a signal's number means killed by it."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
