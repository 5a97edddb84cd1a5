"""Define the classes for sent messages, stored messages and deliveries."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from uuid import UUID


class MessageState(IntEnum):
    """The state of a message.

    The annotation `x-opt-message-state` of a message contains the number of the message's state.
    """

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


class ReceiveMode(Enum):
    """Whether the receiver settles each message, or delivery itself removes the message."""

    PEEK_LOCK = "peek-lock"
    RECEIVE_AND_DELETE = "receive-and-delete"


PropertyChanges = tuple[tuple[str, bytes], ...]
"""Application properties that receivers set when they settled a message.

Each item is the name of a property and its encoded value. No name occurs twice.
"""


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message that a sender has sent to a queue.

    `header`, `annotations` and `bare` contain the encoded message. The other attributes are decoded
    for the broker.
    """

    header: bytes
    """The header section as the sender encoded it. Empty if the message has no header."""
    annotations: bytes
    """The delivery annotations and message annotations as the sender encoded them.

    Empty if the message has no annotations.
    """
    bare: bytes
    """The properties, application properties, body and footer as the sender encoded them."""
    message_id: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """The time at which the message becomes active.

    If this time is in the past, the message is active at once.
    """
    session_id: str | None = None
    """The id of the message session to which the sender assigned the message."""

    @property
    def size_bytes(self) -> int:
        """The size of the encoded message in bytes, to which the limits of the queue apply."""
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

    A scheduled message gets a new sequence number when it becomes active.
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
    property_changes: PropertyChanges = ()


@dataclass(frozen=True, slots=True)
class MessageDelivery:
    """A delivery of a message. In receive-and-delete mode, the delivery has no lock."""

    message: StoredMessage
    lock_token: UUID | None
    locked_until: datetime | None


@dataclass(frozen=True, slots=True)
class Lock:
    """A receiver's exclusive lock on a message."""

    token: UUID
    until: datetime | None
    """When the lock expires. None if it ends with the lock on the message's session."""


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """The data that the broker keeps in memory for one message. The content is not included.

    A record is immutable. Each change of the message creates a new record.
    """

    id: int
    """The broker's internal number of the message, which never changes.

    The sequence number, however, changes when a scheduled message becomes active.
    """
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
    property_changes: PropertyChanges = ()
    session_id: str | None = None
    """The id of the message's session. None if the message was sent to a queue without sessions."""

    @property
    def is_ready(self) -> bool:
        """Whether the message can be delivered now: it is active, and no receiver has locked it."""
        return self.lock is None and self.state is MessageState.ACTIVE

    @property
    def due_at(self) -> datetime | None:
        """The time at which the message's lock or life ends, or it becomes active, or None."""
        if self.lock is not None:
            return self.lock.until
        if self.state is MessageState.SCHEDULED:
            return self.scheduled_at
        return self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Return whether the message's time to live ended at or before the time `now`."""
        return self.expires_at is not None and self.expires_at <= now

    def with_content(self, content: IncomingMessage) -> StoredMessage:
        """Combine this record with the message's content and return the stored message."""
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
            property_changes=self.property_changes,
        )
