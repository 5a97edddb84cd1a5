"""Define and check the settings of queues, topics and subscriptions.

The limits of the settings are the limits of Azure Service Bus's Standard tier.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar

from emulator.servicebus.broker.authorization import AuthorizationRule, check_rules
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.subscription_rules import (
    DEFAULT_RULES,
    SubscriptionRule,
    check_subscription_rules,
)

STANDARD_MESSAGE_BYTES = 256 * 1024
DEFAULT_DUPLICATE_WINDOW = timedelta(minutes=10)
RESERVED_NAME = "health"
"""The name that no queue or topic can have, because the management API answers `/health` itself."""

_MAX_LOCK_DURATION = timedelta(minutes=5)
_MAX_DELIVERY_COUNT = 2000
_MIN_IDLE = timedelta(minutes=5)
_DUPLICATE_WINDOW_RANGE = timedelta(seconds=20), timedelta(days=7)
_MAX_NAME_LENGTH = 260
_MAX_METADATA_LENGTH = 1024
_MAX_SUBSCRIPTION_NAME_LENGTH = 50
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?")


SUBSCRIPTIONS = "/Subscriptions/"
"""The part of a subscription's address between the names of the topic and the subscription."""


def check_name(name: str) -> None:
    """Raise ArgumentError if a new queue or topic cannot have this name, because it is reserved."""
    if name.casefold() == RESERVED_NAME:
        raise ArgumentError(
            f"Name: {name!r} is reserved for the path /{RESERVED_NAME} of the management API: use "
            "another name"
        )
    if SUBSCRIPTIONS.casefold() in f"/{name}/".casefold():
        raise ArgumentError(
            f"Name: {name[:300]!r} must not contain the path segment 'subscriptions', which is "
            "reserved for the subscriptions of topics: use another name"
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

    KIND: ClassVar[str] = "queue"
    """What the settings belong to: a queue, a topic or a subscription."""

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
    user_metadata: str = ""
    """A text that clients store for their own use."""
    enable_batched_operations: bool = True
    """Kept for clients. It has no effect, because the broker always writes changes together."""
    auto_delete_on_idle: timedelta | None = None
    """After what time without use the queue is deleted. None means that it is never deleted."""

    def __post_init__(self) -> None:
        self._check_name()
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
                "MaxMessageSizeInKilobytes must be from 1 to "
                f"{STANDARD_MESSAGE_BYTES // 1024}, as in the Standard tier"
            )
        if self.max_size_bytes < 1:
            raise self._refusal("MaxSizeInMegabytes must be at least 1")
        idle = self.auto_delete_on_idle
        if idle is not None and idle < _MIN_IDLE:
            raise self._refusal("AutoDeleteOnIdle must be at least 5 minutes")
        if len(self.user_metadata) > _MAX_METADATA_LENGTH:
            raise self._refusal(f"UserMetadata must have at most {_MAX_METADATA_LENGTH} characters")
        check_rules(self.authorization_rules)

    def _check_name(self) -> None:
        if len(self.name) > _MAX_NAME_LENGTH or not _NAME.fullmatch(self.name):
            raise ArgumentError(
                f"Name: {self.name[:300]!r} is not a valid {self.KIND} name: use at most "
                f"{_MAX_NAME_LENGTH} letters, digits and . _ / -, and begin with a letter or digit"
            )

    def _refusal(self, problem: str) -> ArgumentError:
        return ArgumentError(f"{self.KIND} {self.name!r}: {problem}")


@dataclass(frozen=True, slots=True)
class TopicSettings(QueueSettings):
    """The settings of a topic.

    Receivers get a topic's messages only from the topic's subscriptions. Therefore the lock
    duration, the maximum delivery count and dead-lettering have no effect on the topic itself.
    """

    KIND: ClassVar[str] = "topic"

    def __post_init__(self) -> None:
        QueueSettings.__post_init__(self)
        _refuse_sessions(self)


@dataclass(frozen=True, slots=True)
class SubscriptionSettings(QueueSettings):
    """The settings of a topic's subscription, which keeps its messages like a queue.

    The name is the address of the subscription, such as `orders/Subscriptions/audit`.
    """

    KIND: ClassVar[str] = "subscription"

    rules: tuple[SubscriptionRule, ...] = DEFAULT_RULES
    """The rules that select messages. Without rules, the subscription gets no messages."""
    dead_lettering_on_filter_evaluation_exceptions: bool = True
    """Kept for clients. It has no effect, because the evaluation of a filter does not fail."""

    def __post_init__(self) -> None:
        QueueSettings.__post_init__(self)
        _refuse_sessions(self)
        check_subscription_rules(self.rules)

    @property
    def topic_name(self) -> str:
        """The name of the topic."""
        return self.name.rpartition(SUBSCRIPTIONS)[0]

    @property
    def subscription_name(self) -> str:
        """The name of the subscription in its topic."""
        return self.name.rpartition(SUBSCRIPTIONS)[2]

    def _check_name(self) -> None:
        name = self.subscription_name
        if (
            len(name) > _MAX_SUBSCRIPTION_NAME_LENGTH
            or "/" in name
            or not _NAME.fullmatch(name)
            or SUBSCRIPTIONS not in self.name
        ):
            raise ArgumentError(
                f"Name: {name[:300]!r} is not a valid subscription name: use at most "
                f"{_MAX_SUBSCRIPTION_NAME_LENGTH} letters, digits and . _ -, and begin with a "
                "letter or digit"
            )


def _refuse_sessions(settings: QueueSettings) -> None:
    if settings.requires_session:
        raise ArgumentError(
            f"{settings.KIND} {settings.name!r}: RequiresSession must be false: sessions are not "
            "supported for topics and their subscriptions"
        )


def subscription_address(topic: str, subscription: str) -> str:
    """Return the address of a topic's subscription."""
    return f"{topic}{SUBSCRIPTIONS}{subscription}"


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
        """The number of all messages, with those in both dead-letter queues."""
        return (
            self.active
            + self.deferred
            + self.scheduled
            + self.dead_letter
            + self.transfer_dead_letter
        )
