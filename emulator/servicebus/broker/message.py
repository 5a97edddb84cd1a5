"""The classes for sent messages, stored messages and deliveries."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from uuid import UUID


class MessageState(IntEnum):
    """The values of the annotation `x-opt-message-state`."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class ReceiveMode(Enum):
    """Whether the receiver settles messages, or the broker removes messages at delivery."""

    PEEK_LOCK = "peek-lock"
    RECEIVE_AND_DELETE = "receive-and-delete"


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message in its sender's encoding, and the message's properties that the broker needs.

    The broker does not decode the sections.
    """

    header: bytes
    """The header section as the sender encoded it. Empty if the message has no header."""
    annotations: bytes
    """The delivery and message annotations as the sender encoded them, or empty bytes."""
    bare: bytes
    """Properties, application properties, body and footer as the sender encoded them."""
    message_id: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """The time at which the message becomes active.

    If it is in the past, the message is active at once.
    """

    @property
    def size_bytes(self) -> int:
        """The message's size in bytes, to which the limits of messages and queues apply."""
        return len(self.header) + len(self.annotations) + len(self.bare)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a queue, including its content."""

    header: bytes
    annotations: bytes
    bare: bytes
    sequence_number: int
    enqueue_sequence_number: int
    """The message's first sequence number.

    A scheduled message gets another number when it is activated.
    """
    enqueued_at: datetime
    state: MessageState
    delivery_count: int
    """The number of failed deliveries, which is 0 during the first delivery."""
    time_to_live: timedelta | None
    """The time to live that the sender set, or None if the sender set none."""
    scheduled_at: datetime | None
    expires_at: datetime | None
    dead_letter_reason: str | None
    dead_letter_description: str | None
    dead_letter_source: str | None


@dataclass(frozen=True, slots=True)
class MessageDelivery:
    """A delivery of a message. In receive-and-delete mode it has no lock."""

    message: StoredMessage
    lock_token: UUID | None
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Lock:
    """A receiver's exclusive lock on a message."""

    token: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """A message in memory, without its content.

    It is immutable: each change creates a new record.
    """

    id: int
    """The broker's internal number of the message. Unlike the sequence number, it never changes."""
    queue: int
    sequence_number: int
    enqueue_sequence_number: int
    enqueued_at: datetime
    size_bytes: int
    state: MessageState = MessageState.ACTIVE
    delivery_count: int = 0
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    lock: Lock | None = None
    dead_letter_reason: str | None = None
    dead_letter_description: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the message may be delivered now."""
        return self.lock is None and self.state is MessageState.ACTIVE

    @property
    def due_at(self) -> datetime | None:
        """The time at which the broker must change the message, or None if there is no such time.

        For a locked message this is the time at which the lock expires, because a locked message
        does not expire. For a scheduled message it is the time of the activation, at which the time
        to live starts. For other messages it is the time at which the time to live ends.
        """
        if self.lock is not None:
            return self.lock.until
        if self.state is MessageState.SCHEDULED:
            return self.scheduled_at
        return self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Return whether the message's time to live has ended."""
        return self.expires_at is not None and self.expires_at <= now

    def with_content(self, content: IncomingMessage) -> StoredMessage:
        """Return the stored message that consists of this record and the message's content."""
        return StoredMessage(
            header=content.header,
            annotations=content.annotations,
            bare=content.bare,
            sequence_number=self.sequence_number,
            enqueue_sequence_number=self.enqueue_sequence_number,
            enqueued_at=self.enqueued_at,
            state=self.state,
            delivery_count=self.delivery_count,
            time_to_live=self.time_to_live,
            scheduled_at=self.scheduled_at,
            expires_at=self.expires_at,
            dead_letter_reason=self.dead_letter_reason,
            dead_letter_description=self.dead_letter_description,
            # Service Bus sets this value only if a dead-letter queue forwards to another entity.
            dead_letter_source=None,
        )
