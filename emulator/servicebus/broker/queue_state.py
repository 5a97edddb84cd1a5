"""Apply the rules of one queue, such as the expiry of locks and the detection of duplicates.

This module does not use files, sockets or the clock. Callers pass the current time.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from emulator.servicebus.broker.errors import (
    ArgumentError,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
    SessionLockLost,
)
from emulator.servicebus.broker.message import (
    IncomingMessage,
    Lock,
    MessageRecord,
    MessageState,
    PropertyChanges,
    ReceiveMode,
)
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.message_table import MessageSessionIndex, MessageTable
from emulator.servicebus.broker.settings import QueueSettings


@dataclass(frozen=True, slots=True)
class SeenMessageId:
    """The id of a received message, the sequence number of the message, and the time of receipt."""

    sequence_number: int
    message_id: str
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class SessionState:
    """A change that a receiver made to the state of a message session.

    `value` is the new state. If `value` is None, the state is removed.
    """

    session_id: str
    value: bytes | None
    updated_at: datetime


class DuplicateHistory:
    """The ids of the messages that were sent within the time window of duplicate detection."""

    def __init__(self) -> None:
        self._sequence_numbers: dict[str, int] = {}
        self._seen_ids: deque[SeenMessageId] = deque()
        self._uncommitted: list[SeenMessageId] = []
        self.forgotten_count = 0
        """The number of ids that were removed since the last call of `mark_purged`."""
        self.forgotten_through = 0
        """The highest sequence number of the messages whose ids were removed."""

    def __len__(self) -> int:
        return len(self._seen_ids)

    def load(self, seen_id: SeenMessageId) -> None:
        """Add an id from the database, from the oldest to the newest."""
        self._seen_ids.append(seen_id)
        self._sequence_numbers[seen_id.message_id] = seen_id.sequence_number

    def forget(self, now: datetime, window: timedelta) -> None:
        """Remove committed ids that were received at least `window` before `now`."""
        horizon = now - window
        while self._committed_count and self._seen_ids[0].seen_at <= horizon:
            seen_id = self._seen_ids.popleft()
            # Ids are removed from the database later, so after a restart an id may be present
            # twice.
            if self._sequence_numbers[seen_id.message_id] == seen_id.sequence_number:
                del self._sequence_numbers[seen_id.message_id]
            self.forgotten_count += 1
            self.forgotten_through = seen_id.sequence_number

    @property
    def _committed_count(self) -> int:
        return len(self._seen_ids) - len(self._uncommitted)

    def mark_purged(self) -> None:
        """Forget the count of ids to delete, after the caller has deleted them."""
        self.forgotten_count = 0

    def find(self, message_id: str) -> int | None:
        """Return the sequence number of the message with this id, or None if the id is unknown."""
        return self._sequence_numbers.get(message_id)

    def record(self, seen_id: SeenMessageId) -> None:
        """Add a new id. Until the next commit, `rollback` can remove the id."""
        self.load(seen_id)
        self._uncommitted.append(seen_id)

    def uncommitted(self) -> list[SeenMessageId]:
        """Return the ids that were added since the last commit."""
        return self._uncommitted

    def commit(self) -> None:
        """Keep the ids added since the last commit. `rollback` can no longer remove them."""
        self._uncommitted = []

    def rollback(self) -> None:
        """Remove the ids that were added since the last commit."""
        for seen_id in reversed(self._uncommitted):
            self._seen_ids.pop()
            del self._sequence_numbers[seen_id.message_id]
        self._uncommitted = []


_MAX_REASON_LENGTH = 4096
_MAX_CHANGES_BYTES = 64 * 1024


class QueueState:
    """The state of one queue or dead-letter queue.

    The messages of a dead-letter queue do not expire and are not moved to another queue.
    """

    def __init__(
        self,
        number: int,
        settings: QueueSettings,
        table: MessageTable,
        dead_letter_state: "QueueState | None",
        next_sequence_number: int = 1,
    ) -> None:
        self.number = number
        self.settings = settings
        self.index = table.queue_index(number)
        self.duplicates = DuplicateHistory()
        self.next_sequence_number = next_sequence_number
        self.committed_sequence_number = next_sequence_number
        """The value of `next_sequence_number` at the last commit."""
        self.session_locks: dict[str, MessageSessionLock] = {}
        """The locks on the queue's message sessions by the session's id.

        An ended lock stays here until its messages are unlocked in the database.
        """
        self.uncommitted_session_states: dict[str, SessionState] = {}
        self._table = table
        self._dead_letter_state = dead_letter_state
        if settings.requires_session and dead_letter_state is not None:
            self.index.sessions = MessageSessionIndex()

    @property
    def requires_session(self) -> bool:
        """Whether each message belongs to a message session."""
        return self.index.sessions is not None

    @property
    def changed_states(self) -> "Sequence[QueueState]":
        """This state or, for a topic, also its subscriptions': what a message can change."""
        return (self,)

    # Transactions. The message table commits and rolls back the messages themselves.

    def commit(self) -> None:
        """Keep the changes since the last commit. `rollback` can no longer undo them."""
        self.committed_sequence_number = self.next_sequence_number
        self.duplicates.commit()
        self.uncommitted_session_states.clear()

    def rollback(self) -> None:
        """Restore the numbers, ids and session states of the last commit."""
        self.next_sequence_number = self.committed_sequence_number
        self.duplicates.rollback()
        self.uncommitted_session_states.clear()

    # Sending

    def accept(self, message: IncomingMessage, now: datetime) -> tuple[int, MessageRecord | None]:
        """Add a message, and return its sequence number and its record.

        The record is None for a duplicate, with the earlier number, and for a topic's message that
        goes to the subscriptions at once.
        """
        window = self.settings.duplicate_detection_window
        if window is not None and message.message_id is not None:
            self.duplicates.forget(now, window)
            known = self.duplicates.find(message.message_id)
            if known is not None:
                return known, None
        number = self._new_sequence_number()
        if window is not None and message.message_id is not None:
            self.duplicates.record(SeenMessageId(number, message.message_id, now))
        return number, self._enqueue(message, number, number, now)

    def _enqueue(
        self, message: IncomingMessage, number: int, first_number: int, now: datetime
    ) -> MessageRecord | None:
        """Add a message, and return its record.

        The record is None for a topic's message that goes to the subscriptions at once.
        """
        is_scheduled = message.scheduled_at is not None and message.scheduled_at > now
        record = MessageRecord(
            id=self._table.new_id(),
            queue=self.number,
            sequence_number=number,
            enqueue_sequence_number=first_number,
            enqueued_at=now,
            size_bytes=message.size_bytes,
            state=MessageState.SCHEDULED if is_scheduled else MessageState.ACTIVE,
            time_to_live=message.time_to_live,
            scheduled_at=message.scheduled_at,
            expires_at=None if is_scheduled else self._expiry(message.time_to_live, now),
            session_id=message.session_id if self.requires_session else None,
        )
        self._table.put(record)
        return record

    def cancel(self, sequence_numbers: Iterable[int]) -> None:
        """Remove all these scheduled messages, or none with MessageNotFound."""
        for record in self._find(sequence_numbers, MessageState.SCHEDULED):
            self._table.remove(record.id)

    # Receiving

    def has_ready(self, session_lock: MessageSessionLock | None) -> bool:
        """Return whether a message is ready for a receiver with this lock."""
        return self._first_ready(session_lock) is not None

    def take(
        self, mode: ReceiveMode, now: datetime, session_lock: MessageSessionLock | None = None
    ) -> MessageRecord | None:
        """Lock or remove the first ready message, by `mode`, and return it, or None."""
        number = self._first_ready(session_lock)
        return None if number is None else self._assign(number, mode, now, session_lock)

    def _first_ready(self, session_lock: MessageSessionLock | None) -> int | None:
        if session_lock is None:
            return self.index.ready.first()
        if self.index.sessions is None or not session_lock.is_held:
            return None
        return self.index.sessions.first_ready(session_lock.session_id)

    def take_deferred(
        self,
        sequence_numbers: Iterable[int],
        mode: ReceiveMode,
        now: datetime,
        session_lock: MessageSessionLock | None = None,
    ) -> list[MessageRecord]:
        """Lock or remove these deferred messages, or none with MessageNotFound."""
        found = self._find(sequence_numbers, MessageState.DEFERRED, session_lock)
        return [self._assign(each.sequence_number, mode, now, session_lock) for each in found]

    def _assign(
        self,
        sequence_number: int,
        mode: ReceiveMode,
        now: datetime,
        session_lock: MessageSessionLock | None,
    ) -> MessageRecord:
        record = self.index.by_sequence_number[sequence_number]
        if mode is ReceiveMode.RECEIVE_AND_DELETE:
            self._table.remove(record.id)
            return record
        return self._lock(record, None if session_lock else now + self.settings.lock_duration)

    def _lock(self, record: MessageRecord, until: datetime | None) -> MessageRecord:
        locked = replace(record, lock=Lock(uuid4(), until))
        self._table.put(locked)
        return locked

    def put_back(self, record: MessageRecord, now: datetime) -> None:
        """Lock a message that was removed but not delivered, as after a failed peek-lock."""
        self._lock(record, now + self.settings.lock_duration)

    def _find(
        self,
        sequence_numbers: Iterable[int],
        state: MessageState,
        session_lock: MessageSessionLock | None = None,
    ) -> list[MessageRecord]:
        found = []
        for number in dict.fromkeys(sequence_numbers):
            record = self.index.by_sequence_number.get(number)
            if (
                record is None
                or record.state is not state
                or record.lock is not None
                or (session_lock is not None and record.session_id != session_lock.session_id)
            ):
                raise MessageNotFound(
                    f"no {state.name.lower()} message has the sequence number {number}"
                )
            found.append(record)
        return found

    # Message sessions

    def next_session_id(self) -> str | None:
        """Return the id of the unlocked session with the oldest ready message, or None."""
        if self.index.sessions is None:
            return None
        number = self.index.sessions.first_available()
        return None if number is None else self.index.by_sequence_number[number].session_id

    def lock_session(self, lock: MessageSessionLock) -> None:
        """Lock a session. The caller must ensure that the session is not locked yet."""
        assert self.index.sessions is not None
        self.session_locks[lock.session_id] = lock
        self.index.sessions.set_locked(lock.session_id, True)

    def unlock_session_messages(self, lock: MessageSessionLock, now: datetime) -> None:
        """Unlock an ended lock's messages; they count as failed if it expired, as in Azure."""
        assert self.index.sessions is not None
        records = [
            self.index.by_token[each] for each in self.index.sessions.tokens(lock.session_id)
        ]
        for record in sorted(records, key=lambda each: each.sequence_number):
            self._unlock(record, now, failed=lock.is_expired)

    def unlock_session(self, lock: MessageSessionLock) -> bool:
        """Unlock a session after its lock and messages; return whether it now is."""
        assert self.index.sessions is not None
        if self.index.sessions.tokens(lock.session_id):
            return False
        del self.session_locks[lock.session_id]
        self.index.sessions.set_locked(lock.session_id, False)
        return True

    def set_session_state(self, session_id: str, value: bytes | None, now: datetime) -> None:
        """Store the state of a session. None removes the state."""
        self.uncommitted_session_states[session_id] = SessionState(session_id, value, now)

    # Settling

    def complete(self, token: UUID, now: datetime) -> None:
        """Remove a locked message. Raises MessageLockLost or SessionLockLost."""
        self._table.remove(self._find_locked(token, now).id)

    def abandon(self, token: UUID, now: datetime, changes: PropertyChanges = ()) -> None:
        """Unlock a message, change its properties, and count its delivery as failed."""
        record = _with_changes(self._find_locked(token, now), changes)
        self._unlock(record, now, failed=True)

    def release(self, token: UUID, now: datetime) -> None:
        """Unlock a message without counting its delivery as failed."""
        self._unlock(self._find_locked(token, now), now, failed=False)

    def defer(self, token: UUID, now: datetime, changes: PropertyChanges = ()) -> None:
        """Defer a locked message, and change its properties."""
        record = _with_changes(self._find_locked(token, now), changes)
        self._unlock(replace(record, state=MessageState.DEFERRED), now, failed=False)

    def dead_letter(
        self,
        token: UUID,
        reason: str | None,
        description: str | None,
        now: datetime,
        changes: PropertyChanges = (),
    ) -> None:
        """Move a locked message to the dead-letter queue, and change its properties.

        Raises MessageLockLost, SessionLockLost, NotAllowed in a dead-letter queue, or
        ArgumentError.
        """
        record = self._find_locked(token, now)
        if self._dead_letter_state is None:
            raise NotAllowed("a message in a dead-letter queue cannot be dead-lettered")
        for text in (reason, description):
            if text is None:
                continue
            if len(text) > _MAX_REASON_LENGTH:
                raise ArgumentError(
                    f"the dead-letter reason or description exceeds {_MAX_REASON_LENGTH} characters"
                )
            check_unicode(text)
        self._move_to_dead_letters(_with_changes(record, changes), reason, description)

    def renew(self, tokens: Sequence[UUID], now: datetime) -> list[datetime]:
        """Renew all locks or, with MessageLockLost, none; return the new expiry times.

        Raises NotAllowed if the queue requires sessions, which lock their messages.
        """
        if self.requires_session:
            raise NotAllowed(
                "a message of a session has no lock of its own: renew the lock on the session"
            )
        until = now + self.settings.lock_duration
        for record in [self._find_locked(token, now) for token in tokens]:
            self._table.put(replace(record, lock=Lock(self._lock_token(record), until)))
        return [until] * len(tokens)

    def _find_locked(self, token: UUID, now: datetime) -> MessageRecord:
        record = self.index.by_token.get(token)
        lock = None if record is None else record.lock
        if record is not None and lock is not None and lock.until is None:
            assert record.session_id is not None
            if not self.session_locks[record.session_id].is_valid(now):
                raise SessionLockLost
            return record
        if record is None or lock is None or lock.until is None or lock.until <= now:
            raise MessageLockLost(
                "The lock supplied is invalid. Either the lock expired, or the message has already"
                " been removed from the queue, or was received by a different receiver instance."
            )
        return record

    @staticmethod
    def _lock_token(record: MessageRecord) -> UUID:
        assert record.lock is not None
        return record.lock.token

    # Changes that become due with time

    def advance(self, record: MessageRecord, now: datetime) -> None:
        """Make the change that is due for a message: unlock, activate, remove or dead-letter it."""
        if record.lock is not None:
            self._unlock(record, now, failed=True)
        elif record.state is MessageState.SCHEDULED:
            self._activate(record, now)
        else:
            self._expire(record)

    def _activate(self, record: MessageRecord, now: datetime) -> None:
        # As in Azure, the message moves to the end of the queue with a new sequence number and
        # time.
        self._table.put(
            replace(
                record,
                sequence_number=self._new_sequence_number(),
                enqueued_at=now,
                state=MessageState.ACTIVE,
                expires_at=self._expiry(record.time_to_live, now),
            )
        )

    def _unlock(self, record: MessageRecord, now: datetime, *, failed: bool) -> None:
        record = replace(record, lock=None, delivery_count=record.delivery_count + failed)
        limit = self.settings.max_delivery_count
        if failed and self._dead_letter_state is not None and record.delivery_count >= limit:
            self._move_to_dead_letters(
                record,
                "MaxDeliveryCountExceeded",
                f"Message could not be consumed after {limit} delivery attempts.",
            )
        elif record.is_expired(now):
            self._expire(record)
        else:
            self._table.put(record)

    def _expire(self, record: MessageRecord) -> None:
        if self.settings.dead_lettering_on_message_expiration:
            self._move_to_dead_letters(
                record, "TTLExpiredException", "The message expired and was dead lettered."
            )
        else:
            self._table.remove(record.id)

    def _move_to_dead_letters(
        self, record: MessageRecord, reason: str | None, description: str | None
    ) -> None:
        assert self._dead_letter_state is not None
        self._table.put(
            replace(
                record,
                queue=self._dead_letter_state.number,
                state=MessageState.ACTIVE,
                expires_at=None,
                lock=None,
                dead_letter_reason=reason,
                dead_letter_description=description,
            )
        )

    def _new_sequence_number(self) -> int:
        self.next_sequence_number += 1
        return self.next_sequence_number - 1

    def _expiry(self, time_to_live: timedelta | None, now: datetime) -> datetime | None:
        lives = [self.settings.default_message_time_to_live, time_to_live]
        shortest = min((life for life in lives if life is not None), default=None)
        if shortest is None:
            return None
        try:
            return now + shortest
        except OverflowError:
            return None


def _with_changes(record: MessageRecord, changes: PropertyChanges) -> MessageRecord:
    """Return the record with new property values. Raises ArgumentError beyond 64 KiB."""
    if not changes:
        return record
    merged = tuple({**dict(record.property_changes), **dict(changes)}.items())
    if sum(len(name) + len(value) for name, value in merged) > _MAX_CHANGES_BYTES:
        raise ArgumentError(
            f"the changed properties of the message exceed {_MAX_CHANGES_BYTES} bytes"
        )
    return replace(record, property_changes=merged)


def check_unicode(text: str) -> None:
    """Raise ArgumentError if a text contains lone surrogates, which SQLite cannot store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError(
            "the message id, session id, dead-letter reason or description is not valid Unicode"
        ) from None
