"""What orchestrators ask for: actions as the SDK lists them, commands as the engine does them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class ActionKind(IntEnum):
    """The kinds of actions of the out-of-process protocol."""

    ACTIVITY = 0
    ACTIVITY_WITH_RETRY = 1
    CHILD = 2
    CHILD_WITH_RETRY = 3
    CONTINUE_AS_NEW = 4
    TIMER = 5
    WAIT_FOR_EVENT = 6
    CALL_ENTITY = 7
    CALL_HTTP = 8
    SIGNAL_ENTITY = 9


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an orchestrator asked for; `input` is JSON text."""

    kind: ActionKind
    name: str = ""
    input: str = "null"
    instance_id: str | None = None
    version: str | None = None
    fire_at: int = 0
    """When a timer goes off, in microseconds since 1970."""
    canceled: bool = False
    retry_interval_ms: int = 0
    max_attempts: int = 0

    def fields(self) -> list[Any]:
        """Return what a repetition needs, for JSON."""
        return [
            int(self.kind),
            self.name,
            self.input,
            self.instance_id,
            self.version,
            self.retry_interval_ms,
            self.max_attempts,
        ]

    @classmethod
    def of_fields(cls, fields: list[Any]) -> "Action":
        """Read what `fields` returned."""
        kind, name, input_text, instance_id, version, interval, attempts = fields
        return cls(
            ActionKind(kind),
            name,
            input_text,
            instance_id,
            version,
            retry_interval_ms=interval,
            max_attempts=attempts,
        )


@dataclass(frozen=True, slots=True)
class ScheduleActivity:
    """Run an activity."""

    task: int
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start a sub-orchestration."""

    task: int
    name: str
    input: str
    instance_id: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Set a timer; one that is cancelled in the same breath takes its number all the same."""

    task: int
    due: int
    canceled: bool = False


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget a timer."""

    task: int


@dataclass(frozen=True, slots=True)
class ContinueAsNew:
    """Begin again with another input and an empty history."""

    input: str


Command = ScheduleActivity | StartChild | StartTimer | CancelTimer | ContinueAsNew
