"""Send, receive, peek and settle the messages of one queue, topic or subscription.

When an operation returns, all its changes are in the database.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from emulator.servicebus.broker.dispatcher import Dispatcher, NextSessionRequest, Subscription
from emulator.servicebus.broker.errors import (
    ArgumentError,
    EntityDisabled,
    EntityNotFound,
    MessageSizeExceeded,
    NotAllowed,
    QuotaExceeded,
    SessionAlreadyLocked,
    SessionLockLost,
)
from emulator.servicebus.broker.message import (
    IncomingMessage,
    MessageDelivery,
    MessageState,
    PropertyChanges,
    ReceiveMode,
    StoredMessage,
)
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.queue_state import QueueState, check_unicode
from emulator.servicebus.broker.settings import QueueCounts, QueueSettings, QueueStatus
from emulator.servicebus.broker.store import StoredQueue, report_failed_write
from emulator.servicebus.broker.transactions import TransactionManager

_MAX_MESSAGE_ID_LENGTH = 128
_MAX_SESSION_ID_LENGTH = 128
_MAX_TIME_TO_LIVE = timedelta(days=10675199)
_PEEK_BYTES = 1024 * 1024


class Queue:
    """A queue of the namespace, or a dead-letter queue that belongs to another queue.

    Methods raise EntityNotFound after the queue's deletion and BrokerClosed; changes also raise
    MessageStoreError. Those with a lock token raise MessageLockLost or SessionLockLost, and those
    with properties ArgumentError beyond 64 KiB.
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
        self.created_at = self.updated_at = self.accessed_at = transactions.clock.now()
        """The times at which the queue was created, last changed and last used.

        The time of the last use is not durable: it is at least the time of the broker's start.
        """

    @property
    def settings(self) -> QueueSettings:
        """The queue's settings. A dead-letter queue has the settings of its main queue."""
        return self._state.settings

    @property
    def is_subqueue(self) -> bool:
        """Whether this is a dead-letter queue, to which messages cannot be sent."""
        return not self._subqueues

    @property
    def requires_session(self) -> bool:
        """Whether each receiver must lock a session; False for a dead-letter queue."""
        return self._state.requires_session

    def check_sending(self) -> None:
        """Raise EntityDisabled if the queue's status forbids sending."""
        self._check_status(self.settings.status.allows_sending, "Send")

    def check_receiving(self) -> None:
        """Raise EntityDisabled if the queue's status forbids receiving and peeking."""
        self._check_status(self.settings.status.allows_receiving, "Receive")

    def check_enabled(self) -> None:
        """Raise EntityDisabled if the queue is disabled for all operations."""
        if self.settings.status is QueueStatus.DISABLED:
            raise EntityDisabled(self.address, kind=self.settings.KIND)

    def _check_status(self, is_allowed: bool, operations: str) -> None:
        self.check_enabled()
        if not is_allowed:
            raise EntityDisabled(self.address, operations, self.settings.KIND)

    # Sending

    async def send(self, messages: Sequence[IncomingMessage]) -> list[int]:
        """Add all messages, or none if one is refused. Return their sequence numbers.

        A duplicate is not added and has the number of the earlier message. Raises EntityDisabled,
        NotAllowed (a dead-letter queue, a subscription, or no session id), MessageSizeExceeded,
        QuotaExceeded or ArgumentError.
        """
        now = self._begin()
        self.check_sending()
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
        """Add messages for their `scheduled_at`, as `send` does. Return their sequence numbers."""
        if any(message.scheduled_at is None for message in messages):
            raise ArgumentError("a message cannot be scheduled, because it has no scheduled time")
        return await self.send(messages)

    async def cancel_scheduled(self, sequence_numbers: Sequence[int]) -> None:
        """Remove all these scheduled messages, or none with MessageNotFound."""
        self._begin()
        self._state.cancel(sequence_numbers)
        await self._transactions.wait_until_committed()

    # Receiving

    def subscribe(
        self,
        mode: ReceiveMode,
        deliver: Callable[[MessageDelivery], None],
        session_lock: MessageSessionLock | None = None,
    ) -> Subscription:
        """Register a receiver without credit, whose messages go to `deliver`.

        Raises EntityDisabled, or NotAllowed if `session_lock` does not fit the queue.
        """
        self._raise_if_deleted()
        self.accessed_at = self._transactions.clock.now()
        self.check_receiving()
        self._check_session_use(session_lock is not None)
        return self._dispatcher.subscribe(mode, deliver, session_lock)

    async def receive_deferred(
        self,
        sequence_numbers: Sequence[int],
        mode: ReceiveMode,
        session_lock: MessageSessionLock | None = None,
    ) -> list[MessageDelivery]:
        """Receive the deferred messages with these numbers, of the session of `session_lock`.

        Raises EntityDisabled, NotAllowed if `session_lock` does not fit the queue, SessionLockLost,
        or MessageNotFound without receiving any.
        """
        now = self._begin()
        self.check_receiving()
        self._check_session_use(session_lock is not None)
        if session_lock is not None:
            self._check_session_lock(session_lock, now)
        records = self._state.take_deferred(sequence_numbers, mode, now, session_lock)
        # Read the contents now. In receive-and-delete mode, the commit removes them.
        deliveries = [self._transactions.build_delivery(record) for record in records]
        await self._transactions.wait_until_committed()
        return deliveries

    def peek(
        self, from_sequence_number: int, count: int, session_id: str | None = None
    ) -> list[StoredMessage]:
        """Return at most `count` messages in any state, and at most 1 MiB, without locking them."""
        self._begin()
        self._transactions.flush()
        index = self._state.index
        found: list[StoredMessage] = []
        size_bytes = 0
        for number in index.order.since(from_sequence_number):
            record = index.by_sequence_number[number]
            if session_id is not None and record.session_id != session_id:
                continue
            size_bytes += record.size_bytes
            if len(found) >= count or (found and size_bytes > _PEEK_BYTES):
                break
            found.append(record.with_content(self._transactions.contents.get(record.id)))
        return found

    def check_writable(self) -> None:
        """Raise MessageStoreError if the database cannot be written now. No message is changed."""
        self._transactions.check_writable()

    # Message sessions. Methods with a lock raise SessionLockLost if the lock is lost.

    def check_accepts_sessions(self) -> None:
        """Raise NotAllowed if the queue has no message sessions."""
        self._check_session_use(True)

    def accept_session(self, session_id: str) -> MessageSessionLock:
        """Lock a message session, which may have no messages, and return the lock.

        Raises EntityDisabled, NotAllowed, SessionAlreadyLocked, or ArgumentError for the id.
        """
        now = self._begin()
        self.check_receiving()
        self._check_session_use(True)
        _check_session_id(session_id)
        # Another receiver may have released the session in this iteration of the event loop.
        self._transactions.flush()
        if session_id in self._state.session_locks:
            raise SessionAlreadyLocked(session_id)
        return self._dispatcher.lock_session(session_id, now)

    def request_session(self, accept: Callable[[MessageSessionLock], None]) -> NextSessionRequest:
        """Register a request for the unlocked session with the oldest ready message."""
        self._begin()
        self.check_receiving()
        self._check_session_use(True)
        return self._dispatcher.request_session(accept)

    def release_session(self, lock: MessageSessionLock) -> None:
        """End a lock on a session. Its unsettled deliveries do not count as failed."""
        self._transactions.release_session(lock)

    def check_session_lock(self, lock: MessageSessionLock) -> None:
        """Raise SessionLockLost if the lock is lost."""
        self._check_session_lock(lock, self._begin())

    def renew_session_lock(self, lock: MessageSessionLock) -> datetime:
        """Renew a session's lock for the lock duration, and return its expiry time."""
        now = self._begin()
        self._check_session_lock(lock, now)
        self._transactions.session_locks.renew(lock, now + self.settings.lock_duration)
        return lock.until

    def session_state(self, lock: MessageSessionLock) -> bytes | None:
        """Return the state of a message session, or None if the session has no state."""
        self._check_session_lock(lock, self._begin())
        self._transactions.flush()
        return self._transactions.store.session_state(self._state.number, lock.session_id)

    async def set_session_state(self, lock: MessageSessionLock, state: bytes | None) -> None:
        """Store a session's state; None removes it. Raises MessageSizeExceeded."""
        now = self._begin()
        self._check_session_lock(lock, now)
        limit_bytes = self.settings.max_message_bytes
        if state is not None and len(state) > limit_bytes:
            raise MessageSizeExceeded(
                f"the session state has {len(state)} bytes, but the limit is {limit_bytes} bytes"
            )
        self._state.set_session_state(lock.session_id, state, now)
        self._transactions.mark_changed(self._state)
        await self._transactions.wait_until_committed()

    def session_ids(self, updated_after: datetime | None = None) -> list[str]:
        """Return the ids of the sessions that have active messages or a state, sorted.

        With `updated_after`, only those whose state was set after it. Raises NotAllowed.
        """
        self._begin()
        self._check_session_use(True)
        self._transactions.flush()
        ids = self._transactions.store.sessions_with_state(self._state.number, updated_after)
        if updated_after is None and self._state.index.sessions is not None:
            ids += self._state.index.sessions.ids()
        return sorted(set(ids))

    @staticmethod
    def _check_session_lock(lock: MessageSessionLock, now: datetime) -> None:
        if not lock.is_valid(now):
            raise SessionLockLost

    def _check_session_use(self, has_session: bool) -> None:
        """Raise NotAllowed unless the receiver has a session exactly if the queue requires one."""
        if has_session and not self.requires_session:
            raise NotAllowed(
                "A sessionful message receiver cannot be created on an entity that does not require"
                " sessions. Ensure RequiresSession is set to true when creating a Queue or"
                " Subscription to enable sessionful behavior."
            )
        if self.requires_session and not has_session:
            raise NotAllowed(
                "It is not possible for an entity that requires sessions to create a"
                " non-sessionful message receiver."
            )

    # Settling. Each method raises MessageLockLost if the lock is lost, SessionLockLost if the
    # lock on the message's session is lost, and ArgumentError if the changed properties exceed
    # 64 KiB.

    async def complete(self, token: UUID) -> None:
        """Remove the message with the lock token `token` from the queue."""
        self._state.complete(token, self._begin())
        await self._transactions.wait_until_committed()

    async def abandon(self, token: UUID, changes: PropertyChanges = ()) -> None:
        """Unlock a message for another delivery, and count the current delivery as failed."""
        self._state.abandon(token, self._begin(), changes)
        await self._transactions.wait_until_committed()

    async def release(self, token: UUID) -> None:
        """Unlock a message for another delivery. Do not count the current delivery as failed."""
        self._state.release(token, self._begin())
        await self._transactions.wait_until_committed()

    async def defer(self, token: UUID, changes: PropertyChanges = ()) -> None:
        """Defer a locked message for `receive_deferred`, and set application properties."""
        self._state.defer(token, self._begin(), changes)
        await self._transactions.wait_until_committed()

    async def dead_letter(
        self,
        token: UUID,
        reason: str | None,
        description: str | None,
        changes: PropertyChanges = (),
    ) -> None:
        """Move a message to the dead-letter queue. Raises NotAllowed if this is one."""
        self._state.dead_letter(token, reason, description, self._begin(), changes)
        await self._transactions.wait_until_committed()

    async def renew(self, tokens: Sequence[UUID]) -> list[datetime]:
        """Renew all locks or, with MessageLockLost, none; return the new expiry times."""
        ends = self._state.renew(tokens, self._begin())
        await self._transactions.wait_until_committed()
        return ends

    # Counting

    def counts(self) -> QueueCounts:
        """Return the number of messages in each state, and the size of the queue in bytes."""
        self._begin(is_access=False)
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
            size_bytes=self._stored_bytes(),
        )

    # Methods that the broker calls

    def save_settings(self, settings: QueueSettings) -> None:
        """Write new settings, and use them from now on. Raises MessageStoreError."""
        problem = f"the {settings.KIND} {settings.name!r} could not be written to the database"
        now = self._transactions.clock.now()
        with report_failed_write(problem):
            self._transactions.store.save_queue(
                StoredQueue(self._state.number, settings, 1, self.created_at, now)
            )
        self.updated_at = self.accessed_at = now
        for queue in (self, *self._subqueues):
            queue._state.settings = settings

    def mark_deleted(self) -> None:
        """Make later operations on the queue and its dead-letter queues fail."""
        for queue in (self, *self._subqueues):
            queue._deleted = True

    def find_last_access(self, now: datetime) -> datetime:
        """Return when the queue was last used: now, if it has receivers or scheduled messages."""
        if self._dispatcher.has_receivers or self._state.index.counts[MessageState.SCHEDULED]:
            self.accessed_at = now
        return max([self.accessed_at, *(each.find_last_access(now) for each in self._subqueues)])

    def _begin(self, *, is_access: bool = True) -> datetime:
        self._raise_if_deleted()
        now = self._transactions.begin()
        if is_access:
            self.accessed_at = now
        return now

    def _raise_if_deleted(self) -> None:
        if self._deleted:
            raise EntityNotFound(self.address)

    def _check(self, messages: Sequence[IncomingMessage]) -> None:
        if self.is_subqueue:
            raise NotAllowed(
                f"messages cannot be sent to {self.address!r}, which is a dead-letter queue"
            )
        for message in messages:
            _check(message, self.settings.max_message_bytes)
            if self.requires_session:
                _check_session_id(message.session_id)
        size_bytes = self._stored_bytes()
        if size_bytes + sum(each.size_bytes for each in messages) > self.settings.max_size_bytes:
            raise QuotaExceeded(
                f"the {self.settings.KIND} {self.address!r} is full: receive or delete messages"
                " first"
            )

    def _stored_bytes(self) -> int:
        """Return the size of all messages, including those in the dead-letter queues."""
        return sum(queue._state.index.size_bytes for queue in (self, *self._subqueues))


def _check_session_id(session_id: str | None) -> None:
    """Raise NotAllowed if a session id is None, and ArgumentError if it is invalid."""
    if session_id is None:
        raise NotAllowed(
            "The SessionId was not set on a message, and it cannot be sent to the entity. Entities"
            " that have session support enabled can only receive messages that have the SessionId"
            " set to a valid value."
        )
    if len(session_id) > _MAX_SESSION_ID_LENGTH:
        raise ArgumentError(f"a session id must have at most {_MAX_SESSION_ID_LENGTH} characters")
    check_unicode(session_id)


def _check(message: IncomingMessage, limit_bytes: int) -> None:
    if message.size_bytes > limit_bytes:
        raise MessageSizeExceeded(
            f"The received message (size:{message.size_bytes} bytes) exceeds the limit "
            f"({limit_bytes} bytes) currently allowed on the link."
        )
    if message.message_id is not None:
        if len(message.message_id) > _MAX_MESSAGE_ID_LENGTH:
            raise ArgumentError(
                f"a message id must have at most {_MAX_MESSAGE_ID_LENGTH} characters"
            )
        check_unicode(message.message_id)
    time_to_live = message.time_to_live or timedelta(0)
    if not timedelta(0) <= time_to_live <= _MAX_TIME_TO_LIVE:
        raise ArgumentError("the time to live of a message must be from 0 to 10675199 days")
    if message.scheduled_at is not None and message.scheduled_at.tzinfo is None:
        raise ArgumentError("the scheduled time of a message must have a time zone")
