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

    A crash is requested as POINT or as POINT:NAME. NAME limits the crash to one orchestrator,
    activity or external event.
    """

    BEFORE_START = "before-start"
    """Crash when a request to start an instance has arrived, before the instance is stored.

    In POINT:NAME, NAME is an orchestrator.
    """
    AFTER_START = "after-start"
    """Crash when the instance is stored, before the response is sent.

    In POINT:NAME, NAME is an orchestrator.
    """
    BEFORE_SEND = "before-send"
    """Crash when the orchestrator has run, before its messages are sent and its history is saved.

    In POINT:NAME, NAME is an orchestrator.
    """
    BEFORE_SAVE = "before-save"
    """Crash when the episode's messages are sent, before the history is saved.

    In POINT:NAME, NAME is an orchestrator.
    """
    BEFORE_SAVE_AFTER_EVENT = "before-save-after-event"
    """Crash when the episode's messages are sent and an external event for the instance arrives.

    The host waits up to 30 s for the event. It crashes before the history is saved. In POINT:NAME,
    NAME is an external event.
    """
    BEFORE_DELETE = "before-delete"
    """Crash when the history is saved, before the dequeued messages are deleted.

    In POINT:NAME, NAME is an orchestrator.
    """
    BEFORE_EVENT = "before-event"
    """Crash when a raiseEvent request has arrived, before the event is stored.

    In POINT:NAME, NAME is an external event.
    """
    AFTER_EVENT = "after-event"
    """Crash when the event of a raiseEvent request is stored, before the response is sent.

    In POINT:NAME, NAME is an external event.
    """
    BEFORE_ACTIVITY = "before-activity"
    """Crash when a work item is dequeued, before the activity runs.

    In POINT:NAME, NAME is an activity.
    """
    AFTER_ACTIVITY = "after-activity"
    """Crash when the activity has run, before its completion is sent.

    In POINT:NAME, NAME is an activity.
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
