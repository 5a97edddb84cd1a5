"""One queue as its users see it: every change is durable when the call returns."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from emulator.servicebus.broker.dispatcher import Dispatcher, Subscription
from emulator.servicebus.broker.errors import (
    ArgumentError,
    EntityNotFound,
    MessageSizeExceeded,
    NotAllowed,
    QuotaExceeded,
)
from emulator.servicebus.broker.message import (
    Delivery,
    IncomingMessage,
    MessageState,
    ReceiveMode,
    StoredMessage,
)
from emulator.servicebus.broker.queue_state import QueueState, check_unicode
from emulator.servicebus.broker.settings import QueueCounts, QueueSettings
from emulator.servicebus.broker.transactions import TransactionManager

_MAX_MESSAGE_ID_LENGTH = 128
_MAX_TIME_TO_LIVE = timedelta(days=10675199)
_PEEK_BYTES = 1024 * 1024


class Queue:
    """A queue, or with ``is_subqueue`` one of the dead-letter queues below it.

    All methods raise EntityNotFound once the queue is deleted, BrokerClosed once the broker is,
    and those that change something raise StorageError when it could not be written.
    """

    def __init__(
        self,
        address: str,
        state: QueueState,
        dispatcher: Dispatcher,
        transactions: TransactionManager,
        subqueues: Sequence["Queue"] = (),
    ) -> None:
        self.address = address
        self._state = state
        self._dispatcher = dispatcher
        self._transactions = transactions
        self._subqueues = subqueues
        self._deleted = False

    @property
    def settings(self) -> QueueSettings:
        """The settings of the queue; a dead-letter queue has those of its parent."""
        return self._state.settings

    @property
    def is_subqueue(self) -> bool:
        """Whether this is a dead-letter queue, to which nothing can be sent."""
        return not self._subqueues

    # Sending

    async def send(self, messages: Sequence[IncomingMessage]) -> list[int]:
        """Add messages, all or none, and return their sequence numbers.

        A duplicate is dropped and gets the number of the message that it repeats. Raises
        NotAllowed on a dead-letter queue, MessageTooLarge, QuotaExceeded and ArgumentError.
        """
        now = self._begin()
        self._check(messages)
        numbers = []
        for message in messages:
            number, record = self._state.accept(message, now)
            if record is not None:
                self._transactions.contents.add(record.id, message)
            numbers.append(number)
        self._transactions.mark_changed(self._state)
        await self._transactions.wait_until_committed()
        return numbers

    async def schedule(self, messages: Sequence[IncomingMessage]) -> list[int]:
        """Add messages that become active at their ``scheduled_at``; raises as ``send`` does."""
        if any(message.scheduled_at is None for message in messages):
            raise ArgumentError("a message to be scheduled has no time for it")
        return await self.send(messages)

    async def cancel_scheduled(self, sequence_numbers: Sequence[int]) -> None:
        """Take scheduled messages back, all or none; raises MessageNotFound."""
        self._begin()
        self._state.cancel(sequence_numbers)
        await self._transactions.wait_until_committed()

    # Receiving

    def subscribe(self, mode: ReceiveMode, deliver: Callable[[Delivery], None]) -> Subscription:
        """Register a receiver, which gets its first message once it has credit."""
        self._raise_if_deleted()
        return self._dispatcher.subscribe(mode, deliver)

    async def receive_deferred(
        self, sequence_numbers: Sequence[int], mode: ReceiveMode
    ) -> list[Delivery]:
        """Receive deferred messages, all or none; raises MessageNotFound."""
        now = self._begin()
        records = self._state.take_deferred(sequence_numbers, mode, now)
        # Before the write: what is received and deleted is gone after it.
        deliveries = [self._transactions.build_delivery(record) for record in records]
        await self._transactions.wait_until_committed()
        return deliveries

    def peek(self, from_sequence_number: int, count: int) -> list[StoredMessage]:
        """Return messages from a sequence number on, whatever their state, without locking them.

        May return fewer than there are, so that one answer stays of moderate size.
        """
        self._begin()
        self._transactions.flush()
        index = self._state.index
        found: list[StoredMessage] = []
        size_bytes = 0
        for number in index.order.since(from_sequence_number):
            record = index.by_sequence_number[number]
            size_bytes += record.size_bytes
            if len(found) >= count or (found and size_bytes > _PEEK_BYTES):
                break
            found.append(record.with_content(self._transactions.contents.get(record.id)))
        return found

    # Settling; all raise MessageLockLost

    async def complete(self, token: UUID) -> None:
        """Be done with a message."""
        self._state.complete(token, self._begin())
        await self._transactions.wait_until_committed()

    async def abandon(self, token: UUID) -> None:
        """Give a message back, counting the delivery as failed."""
        self._state.abandon(token, self._begin())
        await self._transactions.wait_until_committed()

    async def release(self, token: UUID) -> None:
        """Give a message back as if it had not been delivered."""
        self._state.release(token, self._begin())
        await self._transactions.wait_until_committed()

    async def defer(self, token: UUID) -> None:
        """Set a message aside until ``receive_deferred`` asks for it."""
        self._state.defer(token, self._begin())
        await self._transactions.wait_until_committed()

    async def dead_letter(self, token: UUID, reason: str | None, description: str | None) -> None:
        """Move a message to the dead-letter queue; raises NotAllowed in one."""
        self._state.dead_letter(token, reason, description, self._begin())
        await self._transactions.wait_until_committed()

    async def renew(self, tokens: Sequence[UUID]) -> list[datetime]:
        """Extend locks, all or none, to the lock duration from now; returns their ends."""
        ends = self._state.renew(tokens, self._begin())
        await self._transactions.wait_until_committed()
        return ends

    # Looking

    def counts(self) -> QueueCounts:
        """Return how many messages there are, with what is due by now taken into account."""
        self._begin()
        self._transactions.flush()
        index = self._state.index
        below = [queue._state.index for queue in self._subqueues]
        dead_letter, transfer_dead_letter = (len(each.order) for each in below) if below else (0, 0)
        return QueueCounts(
            active=index.counts[MessageState.ACTIVE],
            deferred=index.counts[MessageState.DEFERRED],
            scheduled=index.counts[MessageState.SCHEDULED],
            dead_letter=dead_letter,
            transfer_dead_letter=transfer_dead_letter,
            size_bytes=index.size_bytes + sum(each.size_bytes for each in below),
        )

    # For the broker

    def reconfigure(self, settings: QueueSettings) -> None:
        """Let other settings hold from now on."""
        for queue in (self, *self._subqueues):
            queue._state.settings = settings

    def mark_deleted(self) -> None:
        """Refuse everything from now on."""
        for queue in (self, *self._subqueues):
            queue._deleted = True

    def _begin(self) -> datetime:
        self._raise_if_deleted()
        return self._transactions.begin()

    def _raise_if_deleted(self) -> None:
        if self._deleted:
            raise EntityNotFound(f"the queue {self.address!r} has been deleted")

    def _check(self, messages: Sequence[IncomingMessage]) -> None:
        if self.is_subqueue:
            raise NotAllowed(f"messages cannot be sent to {self.address!r}")
        for message in messages:
            _check(message, self.settings.max_message_bytes)
        size_bytes = self._state.index.size_bytes + sum(
            queue._state.index.size_bytes for queue in self._subqueues
        )
        if size_bytes + sum(each.size_bytes for each in messages) > self.settings.max_size_bytes:
            raise QuotaExceeded(f"the queue {self.address!r} is full")


def _check(message: IncomingMessage, limit_bytes: int) -> None:
    if message.size_bytes > limit_bytes:
        raise MessageSizeExceeded(
            f"the message has {message.size_bytes} bytes; the queue accepts {limit_bytes}"
        )
    if message.message_id is not None:
        if len(message.message_id) > _MAX_MESSAGE_ID_LENGTH:
            raise ArgumentError(f"a message id is over {_MAX_MESSAGE_ID_LENGTH} characters")
        check_unicode(message.message_id)
    time_to_live = message.time_to_live or timedelta(0)
    if not timedelta(0) <= time_to_live <= _MAX_TIME_TO_LIVE:
        raise ArgumentError("a time to live is out of range")
    if message.scheduled_at is not None and message.scheduled_at.tzinfo is None:
        raise ArgumentError("a scheduled time has no time zone")
