"""What travels through a queue. The broker never looks inside a message's sections."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from uuid import UUID


class MessageState(IntEnum):
    """The values of the annotation ``x-opt-message-state``."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class ReceiveMode(Enum):
    """Who decides that a delivered message is done: its receiver, or the broker at once."""

    PEEK_LOCK = "peek-lock"
    RECEIVE_AND_DELETE = "receive-and-delete"


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message as its sender encoded it, with the few facts that the broker acts upon."""

    header: bytes
    """The sender's encoded header section, or nothing."""
    annotations: bytes
    """The sender's encoded message-annotations section, or nothing."""
    bare: bytes
    """Properties, application-properties, body and footer, exactly as sent."""
    message_id: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """Not to be delivered before this instant (UTC); in the past means at once."""

    @property
    def size_bytes(self) -> int:
        """What counts towards the limits on the size of a message and of a queue."""
        return len(self.header) + len(self.annotations) + len(self.bare)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message that is in a queue."""

    header: bytes
    annotations: bytes
    bare: bytes
    sequence_number: int
    enqueue_sequence_number: int
    """The first sequence number that the message had; scheduling gives it a second one."""
    enqueued_at: datetime
    state: MessageState
    delivery_count: int
    """How often the message was handed out before and came back: 0 at the first delivery."""
    time_to_live: timedelta | None
    """As the sender set it; None when the queue's default applies."""
    scheduled_at: datetime | None
    expires_at: datetime | None
    dead_letter_reason: str | None
    dead_letter_description: str | None
    dead_letter_source: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One handing-out of a message; without a lock to a receive-and-delete receiver."""

    message: StoredMessage
    lock_token: UUID | None
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Lock:
    """One receiver's exclusive hold on a message."""

    token: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """Where a message is and what may happen to it; every change makes a new one."""

    id: int
    """The broker's own number for the message: sequence numbers change, this one does not."""
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
        """Whether any receiver may have it now."""
        return self.lock is None and self.state is MessageState.ACTIVE

    @property
    def due_at(self) -> datetime | None:
        """When something happens to it by itself.

        A locked message does not expire under its holder, so its lock comes before its time to
        live; a scheduled one has not begun to live.
        """
        if self.lock is not None:
            return self.lock.until
        if self.state is MessageState.SCHEDULED:
            return self.scheduled_at
        return self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Whether its time to live is over."""
        return self.expires_at is not None and self.expires_at <= now

    def with_content(self, content: IncomingMessage) -> StoredMessage:
        """Return the whole message."""
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
            # Service Bus sets it only where a dead-letter queue forwards to another entity.
            dead_letter_source=None,
        )
