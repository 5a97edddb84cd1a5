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
class PartReport(PartEvent):
    """News of a component that does not change its state: a text to show, in a style of Rich."""

    text: str
    style: str = ""


class PartStopping(PartEvent):
    """The component is being stopped."""


@dataclass(frozen=True, slots=True)
class PartHalted(PartEvent):
    """The component is being restarted, for example because of a changed file."""

    reason: str


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
class PartDied(PartEvent):
    """The component's process ended unexpectedly. A restart follows."""

    exit_code: int
    last_line: str
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
