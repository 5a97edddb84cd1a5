"""Define and check the settings of a queue, and parse and format ISO 8601 durations.

The limits of the settings are the limits of Azure Service Bus's Standard tier.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from emulator.servicebus.broker.authorization import AuthorizationRule, check_rules
from emulator.servicebus.broker.errors import ArgumentError

STANDARD_MESSAGE_BYTES = 256 * 1024
DEFAULT_DUPLICATE_WINDOW = timedelta(minutes=10)
RESERVED_NAME = "health"
"""The name that no queue can have, because the management API answers `/health` itself."""

_MAX_LOCK_DURATION = timedelta(minutes=5)
_MAX_DELIVERY_COUNT = 2000
_DUPLICATE_WINDOW_RANGE = timedelta(seconds=20), timedelta(days=7)
_MAX_NAME_LENGTH = 260
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?")


def check_name(name: str) -> None:
    """Raise ArgumentError if a new queue cannot have this name, because the name is reserved."""
    if name.casefold() == RESERVED_NAME:
        raise ArgumentError(
            f"Name: {name!r} is reserved for the path /{RESERVED_NAME} of the management API: use "
            "another name"
        )


class QueueStatus(StrEnum):
    """Whether clients may send messages to a queue and receive messages from it."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    @property
    def allows_sending(self) -> bool:
        """Whether clients may send messages."""
        return self in {QueueStatus.ACTIVE, QueueStatus.RECEIVE_DISABLED}

    @property
    def allows_receiving(self) -> bool:
        """Whether clients may receive and peek messages."""
        return self in {QueueStatus.ACTIVE, QueueStatus.SEND_DISABLED}


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The settings of a queue.

    The constructor raises ArgumentError if a value is invalid. The error's message names the
    invalid property.
    """

    name: str
    lock_duration: timedelta = timedelta(minutes=1)
    max_delivery_count: int = 10
    default_message_time_to_live: timedelta | None = None
    """The time to live of messages whose sender set no time to live.

    None means that these messages do not expire.
    """
    dead_lettering_on_message_expiration: bool = False
    duplicate_detection_window: timedelta | None = None
    """How long the queue remembers the id of a message, to detect duplicates of the message.

    None means that duplicates are not detected.
    """
    max_message_bytes: int = STANDARD_MESSAGE_BYTES
    max_size_bytes: int = 1024 * 1024 * 1024
    requires_session: bool = False
    """Whether each message must belong to a message session. This setting cannot be changed."""
    status: QueueStatus = QueueStatus.ACTIVE
    authorization_rules: tuple[AuthorizationRule, ...] = ()
    """The shared access policies of the queue, besides those of the namespace."""

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(self.name):
            raise ArgumentError(
                f"Name: {self.name[:300]!r} is not a valid queue name: use at most "
                f"{_MAX_NAME_LENGTH} letters, digits and . _ / -, and begin with a letter or digit"
            )
        if not timedelta(0) < self.lock_duration <= _MAX_LOCK_DURATION:
            raise self._refusal("LockDuration must be greater than 0 and at most 5 minutes")
        if not 1 <= self.max_delivery_count <= _MAX_DELIVERY_COUNT:
            raise self._refusal(f"MaxDeliveryCount must be from 1 to {_MAX_DELIVERY_COUNT}")
        default = self.default_message_time_to_live
        if default is not None and default < timedelta(seconds=1):
            raise self._refusal("DefaultMessageTimeToLive must be at least 1 second")
        shortest, longest = _DUPLICATE_WINDOW_RANGE
        window = self.duplicate_detection_window
        if window is not None and not shortest <= window <= longest:
            raise self._refusal(
                "DuplicateDetectionHistoryTimeWindow must be from 20 seconds to 7 days"
            )
        if not 1 <= self.max_message_bytes <= STANDARD_MESSAGE_BYTES:
            raise self._refusal(
                "MaxMessageSizeInKilobytes must be from 1 to 256, as in the Standard tier"
            )
        if self.max_size_bytes < 1:
            raise self._refusal("MaxSizeInMegabytes must be at least 1")
        check_rules(self.authorization_rules)

    def _refusal(self, problem: str) -> ArgumentError:
        return ArgumentError(f"queue {self.name!r}: {problem}")


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The number of messages of a queue in each state, and the size of the queue in bytes."""

    active: int
    """The number of messages that are ready or locked."""
    deferred: int
    scheduled: int
    dead_letter: int
    transfer_dead_letter: int
    size_bytes: int

    @property
    def total(self) -> int:
        """The number of all messages.

        Messages in the dead-letter queue and in the transfer dead-letter queue are included.
        """
        return (
            self.active
            + self.deferred
            + self.scheduled
            + self.dead_letter
            + self.transfer_dead_letter
        )


_PATTERN = re.compile(
    r"P(?!\Z)(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?!\Z)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?"
    r"(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
)
_UNITS = "days", "hours", "minutes", "seconds"
UNBOUNDED = timedelta(days=10675199, hours=2, minutes=48, seconds=5, microseconds=477580)
"""The longest duration in .NET, rounded to microseconds. In Azure it means "no limit"."""


def parse_duration(text: str) -> timedelta:
    """Parse an ISO 8601 duration such as `PT1M30S`. Raises ValueError if the text is invalid."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:100]!r} is not an ISO 8601 duration such as PT1M or P14D")
    days, hours, minutes, seconds = (match[unit] or "0" for unit in _UNITS)
    whole, _, fraction = seconds.partition(".")
    try:
        return timedelta(
            days=int(days),
            hours=int(hours),
            minutes=int(minutes),
            seconds=int(whole),
            microseconds=int(fraction[:6].ljust(6, "0")),
        )
    except OverflowError:
        raise ValueError(
            f"{text[:100]!r} exceeds the longest duration, P10675199DT2H48M5.47758S"
        ) from None


def format_duration(duration: timedelta) -> str:
    """Format a duration in ISO 8601, for example `P1DT2H3M4.5S`.

    The duration must not be negative.
    """
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    date = f"{duration.days}D" if duration.days else ""
    time = f"{hours}H" if hours else ""
    time += f"{minutes}M" if minutes else ""
    if seconds or duration.microseconds:
        fraction = f".{duration.microseconds:06}".rstrip("0") if duration.microseconds else ""
        time += f"{seconds}{fraction}S"
    if not date and not time:
        return "PT0S"
    return f"P{date}T{time}" if time else f"P{date}"
