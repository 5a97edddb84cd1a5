"""A message as the broker keeps it in memory: everything but its content."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from emulator.servicebus.broker.message import IncomingMessage, MessageState, StoredMessage


@dataclass(frozen=True, slots=True)
class Lock:
    """One receiver's exclusive hold on a message."""

    token: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class Entry:
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
    def ready(self) -> bool:
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

    def expired(self, now: datetime) -> bool:
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
