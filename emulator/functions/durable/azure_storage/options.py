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
    """Crash points as POINT or POINT:NAME. `check_crash_point` checks each text."""
    crash_rate: float = 0.0
    split_brain_rate: float = 0.0
    seed: int | None = None


class CrashPoint(StrEnum):
    """The points at which a host can kill itself.

    A crash is requested as POINT, for example `after-start`, or as POINT:NAME. With NAME, the host
    kills itself only for this orchestrator, activity or event. Each member's text says in which
    state the host kills itself, and what NAME is.
    """

    BEFORE_START = "before-start"
    """A request to start an instance has arrived, but the instance is not stored yet.

    NAME is the name of the orchestrator.
    """
    AFTER_START = "after-start"
    """The instance is stored, but the response to the request to start it is not sent yet.

    NAME is the name of the orchestrator.
    """
    BEFORE_SEND = "before-send"
    """The orchestrator has run, but nothing is sent or saved yet.

    NAME is the name of the orchestrator.
    """
    BEFORE_SAVE = "before-save"
    """The episode's messages are sent, but the history is not saved yet.

    NAME is the name of the orchestrator.
    """
    BEFORE_SAVE_AFTER_EVENT = "before-save-after-event"
    """The episode's messages are sent, and an external event for the instance has arrived.

    The host waits up to 30 s for the event. The history is not saved yet. NAME is the name of the
    event.
    """
    BEFORE_DELETE = "before-delete"
    """The history is saved, but the dequeued messages are not deleted yet.

    NAME is the name of the orchestrator.
    """
    BEFORE_EVENT = "before-event"
    """A raiseEvent request has arrived, but the event is not stored yet.

    NAME is the name of the event.
    """
    AFTER_EVENT = "after-event"
    """The event is stored, but the response to the raiseEvent request is not sent yet.

    NAME is the name of the event.
    """
    BEFORE_ACTIVITY = "before-activity"
    """A work item is dequeued, but the activity has not run yet.

    NAME is the name of the activity.
    """
    AFTER_ACTIVITY = "after-activity"
    """The activity has run, but the message about its end is not sent yet.

    NAME is the name of the activity.
    """


def check_crash_point(text: str) -> str:
    """Check a crash point (POINT or POINT:NAME), and return the same text.

    Raises ValueError if POINT is not a member of CrashPoint.
    """
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
        """Return the time for which a renewed lease on a partition is valid, in seconds.

        If a host dies, its leases expire before the messages that it dequeued become visible again.
        The defaults of the Azure Storage provider have the same effect.
        """
        return min(_LONGEST_LEASE_SECONDS, self.visibility_timeout_seconds / 2)
