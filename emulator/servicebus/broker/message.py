"""Messages in the forms that they take on their way through a queue."""

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
    """Whether a delivered message is settled by its receiver or at once."""

    PEEK_LOCK = "peek-lock"
    RECEIVE_AND_DELETE = "receive-and-delete"


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message as its sender encoded it, with the properties that the broker acts on.

    The broker never decodes the sections.
    """

    header: bytes
    """The sender's encoded header section; empty if absent."""
    annotations: bytes
    """The sender's encoded delivery and message annotations; empty if absent."""
    bare: bytes
    """The bare message: properties, application properties, body and footer, as sent."""
    message_id: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """The message becomes active at this time; a time in the past means now."""

    @property
    def size_bytes(self) -> int:
        """The size that counts towards the limits of messages and queues."""
        return len(self.header) + len(self.annotations) + len(self.bare)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message in a queue, with its content."""

    header: bytes
    annotations: bytes
    bare: bytes
    sequence_number: int
    enqueue_sequence_number: int
    """The first sequence number; activating a scheduled message assigns a new one."""
    enqueued_at: datetime
    state: MessageState
    delivery_count: int
    """The number of failed deliveries: 0 at the first delivery."""
    time_to_live: timedelta | None
    """As the sender set it; None if it did not."""
    scheduled_at: datetime | None
    expires_at: datetime | None
    dead_letter_reason: str | None
    dead_letter_description: str | None
    dead_letter_source: str | None


@dataclass(frozen=True, slots=True)
class MessageDelivery:
    """A delivery of a message. A receive-and-delete receiver gets it without a lock."""

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
    """A message in memory without its content. It is immutable: each change makes a new one."""

    id: int
    """The broker's own number. Unlike the sequence number it never changes."""
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
        """When the message changes by itself: lock expiry, activation or end of life.

        A locked message does not expire, so its lock comes before its time to live. A scheduled
        message lives from its activation.
        """
        if self.lock is not None:
            return self.lock.until
        if self.state is MessageState.SCHEDULED:
            return self.scheduled_at
        return self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Whether the time to live has ended."""
        return self.expires_at is not None and self.expires_at <= now

    def with_content(self, content: IncomingMessage) -> StoredMessage:
        """Return the message with its content."""
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
            # Service Bus sets it only if a dead-letter queue forwards to another entity.
            dead_letter_source=None,
        )
