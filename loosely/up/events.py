"""What the supervisor tells whoever watches: the console, the record of what runs, tests."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from loosely.up.parts import Part


@dataclass(frozen=True, slots=True)
class Started:
    """A part's process exists."""

    part: Part
    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A part answers its probe, ``seconds`` after its start; ``again`` after a restart."""

    part: Part
    seconds: float
    again: bool


@dataclass(frozen=True, slots=True)
class Slow:
    """A part is not ready yet though it has had a while."""

    part: Part
    seconds: float
    last_line: str


@dataclass(frozen=True, slots=True)
class Died:
    """A part ended unasked and will be started again."""

    part: Part
    exit_code: int
    last_line: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """A part has been asked to end."""

    part: Part


@dataclass(frozen=True, slots=True)
class Stopped:
    """A part has ended as asked; ``killed`` when it had to be forced."""

    part: Part
    seconds: float
    killed: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A part was given up, though others like it run; another will be started."""

    part: Part
    reason: str


@dataclass(frozen=True, slots=True)
class Scaled:
    """A fleet has another size, with so many messages in the queues."""

    part: Part
    before: int
    after: int
    messages: int


@dataclass(frozen=True, slots=True)
class Blind:
    """The queues have not been counted for a while, so a fleet keeps its size."""

    part: Part
    reason: str


Event = Started | Ready | Slow | Died | Stopping | Stopped | Failed | Scaled | Blind
Watcher = Callable[[Event], None]


def describe_exit(exit_code: int) -> str:
    """Say an exit status as people do; negative is a signal, as in :mod:`subprocess`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
