"""What a queue is told when it is created, and the limits of the Standard tier."""

import re
from dataclasses import dataclass
from datetime import timedelta

from emulator.servicebus.broker.errors import ArgumentError

STANDARD_MESSAGE_BYTES = 256 * 1024
_MAX_LOCK_DURATION = timedelta(minutes=5)
_MAX_DELIVERY_COUNT = 2000
_DUPLICATE_WINDOW_RANGE = timedelta(seconds=20), timedelta(days=7)
_MAX_NAME_LENGTH = 260
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The properties of one queue; raises ArgumentError, naming the property, as Azure would."""

    name: str
    lock_duration: timedelta = timedelta(minutes=1)
    max_delivery_count: int = 10
    default_message_time_to_live: timedelta | None = None
    """None means that messages without a time to live of their own never expire."""
    dead_lettering_on_message_expiration: bool = False
    duplicate_detection_window: timedelta | None = None
    """None means that duplicates are not looked for."""
    max_message_bytes: int = STANDARD_MESSAGE_BYTES
    max_size_bytes: int = 1024 * 1024 * 1024
    requires_session: bool = False

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(self.name):
            raise ArgumentError(f"Name: {self.name[:300]!r} is not a name for a queue")
        if not timedelta(0) < self.lock_duration <= _MAX_LOCK_DURATION:
            raise self._refusal("LockDuration", "must be over 0 and at most 5 minutes")
        if not 1 <= self.max_delivery_count <= _MAX_DELIVERY_COUNT:
            raise self._refusal("MaxDeliveryCount", f"must be from 1 to {_MAX_DELIVERY_COUNT}")
        default = self.default_message_time_to_live
        if default is not None and default < timedelta(seconds=1):
            raise self._refusal("DefaultMessageTimeToLive", "must be at least 1 second")
        shortest, longest = _DUPLICATE_WINDOW_RANGE
        window = self.duplicate_detection_window
        if window is not None and not shortest <= window <= longest:
            raise self._refusal(
                "DuplicateDetectionHistoryTimeWindow", "must be from 20 seconds to 7 days"
            )
        if not 1 <= self.max_message_bytes <= STANDARD_MESSAGE_BYTES:
            raise self._refusal(
                "MaxMessageSizeInKilobytes", "must be at most 256 (the Standard tier)"
            )
        if self.max_size_bytes < 1:
            raise self._refusal("MaxSizeInMegabytes", "must be at least 1")
        if self.requires_session:
            raise self._refusal("RequiresSession", "sessions are not supported")

    def _refusal(self, name: str, why: str) -> ArgumentError:
        return ArgumentError(f"queue {self.name!r}: {name} {why}")


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages a queue holds, by the names of Azure's runtime properties."""

    active: int
    """Waiting or locked."""
    deferred: int
    scheduled: int
    dead_letter: int
    transfer_dead_letter: int
    size_bytes: int

    @property
    def total(self) -> int:
        """All messages, those of the dead-letter queues included."""
        return (
            self.active
            + self.deferred
            + self.scheduled
            + self.dead_letter
            + self.transfer_dead_letter
        )
