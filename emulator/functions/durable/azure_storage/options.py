"""The options of the azure-storage engine, including the faults to inject."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DEFAULT_VISIBILITY_TIMEOUT_SECONDS = 60.0
_LONGEST_LEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FaultOptions:
    """The faults to inject. Each rate is the probability of the fault in one episode."""

    crash_at: tuple[str, ...] = ()
    """The points at which the host kills itself, each as POINT or POINT:NAME (see CrashPoint).

    Each item kills one host of the task hub, and only once. `check_crash_point` checks an item.
    """
    crash_rate: float = 0.0
    split_brain_rate: float = 0.0
    seed: int | None = None


class CrashPoint(StrEnum):
    """The points at which a host can kill itself.

    A crash is requested as POINT, for example `after-start`, or as POINT:NAME. With NAME, the host
    kills itself only for one orchestrator, activity or event, as described at each point.
    """

    BEFORE_START = "before-start"
    """Crash after a request to start an instance has arrived, before the instance is stored.

    In the option's value POINT:NAME, NAME is the name of the orchestrator.
    """
    AFTER_START = "after-start"
    """Crash after a new instance is stored, before the request to start it is answered.

    In the option's value POINT:NAME, NAME is the name of the orchestrator.
    """
    BEFORE_SEND = "before-send"
    """Crash after the orchestrator has run, before anything is sent or saved.

    In the option's value POINT:NAME, NAME is the name of the orchestrator.
    """
    BEFORE_SAVE = "before-save"
    """Crash after the episode's messages are sent, before its history is saved.

    In the option's value POINT:NAME, NAME is the name of the orchestrator.
    """
    BEFORE_SAVE_AFTER_EVENT = "before-save-after-event"
    """Crash as at `before-save`, but first wait until an external event for the instance arrives.

    If the event does not arrive within 30 s, the host crashes anyway. In POINT:NAME,
    NAME is the name of the event.
    """
    BEFORE_DELETE = "before-delete"
    """Crash after the history is saved, before the dequeued messages are deleted.

    In the option's value POINT:NAME, NAME is the name of the orchestrator.
    """
    BEFORE_EVENT = "before-event"
    """Crash after a raiseEvent request has arrived, before the event is stored.

    In the option's value POINT:NAME, NAME is the name of the event.
    """
    AFTER_EVENT = "after-event"
    """Crash after an event is stored, before the raiseEvent request is answered.

    In the option's value POINT:NAME, NAME is the name of the event.
    """
    BEFORE_ACTIVITY = "before-activity"
    """Crash after a work item is dequeued, before the activity runs.

    In the option's value POINT:NAME, NAME is the name of the activity.
    """
    AFTER_ACTIVITY = "after-activity"
    """Crash after the activity has run, before the message with its result is sent.

    In the option's value POINT:NAME, NAME is the name of the activity.
    """


def check_crash_point(text: str) -> str:
    """Return `text`, a POINT or POINT:NAME. Raises ValueError for an unknown POINT."""
    point = text.partition(":")[0]
    if point not in set(CrashPoint):
        raise ValueError(f"{point!r} is not a crash point: use one of {', '.join(CrashPoint)}")
    return text


_NO_FAULTS = FaultOptions()


@dataclass(frozen=True, slots=True)
class AzureStorageOptions:
    """The options of the azure-storage engine.

    `task_hub` is the file of the task hub. Several hosts may share it.
    """

    task_hub: Path
    visibility_timeout_seconds: float = DEFAULT_VISIBILITY_TIMEOUT_SECONDS
    """How long a message stays invisible after a host has dequeued or renewed it, in seconds."""
    faults: FaultOptions = _NO_FAULTS
    delay_seconds: float = 0.0
    """How many seconds longer each transaction takes, to emulate a remote store."""

    @property
    def lease_seconds(self) -> float:
        """Return the time of a lease: it ends before a dead host's messages return."""
        return min(_LONGEST_LEASE_SECONDS, self.visibility_timeout_seconds / 2)
