"""Collect changes and write them to the database in one transaction, then deliver messages."""

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from emulator.clock import UtcClock
from emulator.disk import DiskStatus
from emulator.servicebus.broker.dispatcher import Assignment, Dispatcher
from emulator.servicebus.broker.errors import BrokerClosed, MessageStoreError
from emulator.servicebus.broker.message import IncomingMessage, MessageDelivery, MessageRecord
from emulator.servicebus.broker.message_sessions import MessageSessionLock, MessageSessionLocks
from emulator.servicebus.broker.message_table import MessageTable
from emulator.servicebus.broker.queue_state import QueueState
from emulator.servicebus.broker.store import ChangeSet, Checkpointer, MessageStore

# Enough for the messages that are delivered as soon as they are sent. In a long queue, the newest
# contents are cached, but the oldest messages are delivered first, so a larger cache helps little.
CACHE_BYTES = 4 * 1024 * 1024


class ContentCache:
    """A cache of message contents, which limits the memory that a long queue uses.

    The cache contains all contents that are not yet in the database, and the contents that were
    written most recently. All other contents are read from the database when needed.
    """

    def __init__(
        self, read: Callable[[int], IncomingMessage], cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._read = read
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, IncomingMessage] = OrderedDict()
        self.cached_bytes = 0
        self._unwritten: dict[int, IncomingMessage] = {}
        self.unwritten_bytes = 0
        """The total size of the contents that are not yet in the database."""

    def add(self, id_: int, content: IncomingMessage) -> None:
        """Keep the content of a new message until `commit`, and then while there is room."""
        self._unwritten[id_] = content
        self.unwritten_bytes += content.size_bytes

    def get(self, id_: int) -> IncomingMessage:
        """Return the content of a message from the cache or from the database."""
        content = self._unwritten.get(id_) or self._cached.get(id_)
        return self._read(id_) if content is None else content

    def discard(self, id_: int) -> None:
        """Remove the content of a deleted message from the cache."""
        content = self._cached.pop(id_, None)
        if content is not None:
            self.cached_bytes -= content.size_bytes

    def commit(self, written: Iterable[int]) -> None:
        """Record which contents the database has now, and discard the other unwritten ones."""
        for id_ in written:
            content = self._unwritten[id_]
            self._cached[id_] = content
            self.cached_bytes += content.size_bytes
        self._unwritten.clear()
        self.unwritten_bytes = 0
        while self.cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self.cached_bytes -= oldest.size_bytes

    def rollback(self) -> None:
        """Discard all unwritten contents, because the transaction failed."""
        self._unwritten.clear()
        self.unwritten_bytes = 0


_RETRY_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 3600.0
_MAX_ASSIGNED_BYTES = 8 * 1024 * 1024
_MAX_UNWRITTEN_BYTES = 8 * 1024 * 1024
_FORGET_BATCH = 256

logger = logging.getLogger(__name__)


class TransactionManager:
    """Collects the changes of one iteration of the event loop, and writes them in one transaction.

    Callers call `begin`, change the state of a queue in memory, and await `wait_until_committed`.
    In the next iteration, ready messages are assigned to receivers, and all changes are written to
    the database. After the commit, the messages are delivered. If the transaction fails, the
    changes in memory are rolled back, and `wait_until_committed` raises MessageStoreError.

    The class also makes the changes that are due: locks and messages expire, and scheduled messages
    become active.
    """

    def __init__(self, database: Path, clock: UtcClock) -> None:
        self.clock = clock
        self.store = MessageStore(database)
        self.checkpointer = Checkpointer(database)
        self._disk = DiskStatus(database.parent)
        self.table = MessageTable()
        self.session_locks = MessageSessionLocks()
        self.contents = ContentCache(self.store.content)
        self._loop = asyncio.get_running_loop()
        self._states: dict[int, QueueState] = {}
        self._dispatchers: dict[int, Dispatcher] = {}
        self._changed: set[QueueState] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._transaction_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._closed = False

    def add(self, state: QueueState) -> Dispatcher:
        """Manage the changes of one more queue, and return a new dispatcher for this queue."""
        dispatcher = Dispatcher(state, self._schedule_transaction, self.session_locks)
        self._states[state.number] = state
        self._dispatchers[state.number] = dispatcher
        return dispatcher

    def remove(self, numbers: range) -> None:
        """Remove queues and all their messages from memory. The removal cannot be rolled back."""
        for number in numbers:
            if number in self._states:
                del self._states[number]
                self._dispatchers.pop(number).close()
                self.session_locks.drop_queue(number)
                self.table.drop_queue(number)

    def load(self) -> None:
        """Read all message records and duplicate ids, then make the changes that are due."""
        for record in self.store.records():
            self.table.load(record)
        for number, seen_id in self.store.seen_ids():
            self._states[number].duplicates.load(seen_id)
        self.tick()

    def begin(self) -> datetime:
        """Make the changes that are due, schedule a transaction, and return the current time.

        Call this before any change of a queue: only the scheduled transaction writes it. Raises
        BrokerClosed if the broker is closed.
        """
        if self._closed:
            raise BrokerClosed("the broker is closed")
        now = self.clock.now()
        self._advance(now)
        self._schedule_transaction()
        return now

    def check_writable(self) -> None:
        """Raise MessageStoreError if the database cannot be written now. No message is changed."""
        if problem := self._disk.find_problem():
            raise MessageStoreError(f"the database cannot be written: {problem}")

    def mark_changed(self, state: QueueState) -> None:
        """Let the next transaction write a queue's next number and duplicate ids."""
        self._changed.update(state.changed_states)

    def release_session(self, lock: MessageSessionLock) -> None:
        """End a lock on a message session. The next transaction unlocks the session's messages."""
        self.session_locks.release(lock)
        self._schedule_transaction()

    async def wait_until_committed(self) -> None:
        """Wait until the next transaction is committed. Raises MessageStoreError."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def flush(self) -> None:
        """Run the scheduled transaction now. If no transaction is scheduled, do nothing."""
        if self._transaction_handle is not None:
            self._transaction_handle.cancel()
            self._run_transaction()

    def tick(self) -> None:
        """Make the expiries and activations that are due, and write all pending changes."""
        self.begin()
        self.flush()

    async def close(self) -> None:
        """Write all changes and close the database."""
        await self.checkpointer.close()
        if self._closed:
            return
        self.session_locks.release_all()
        self.flush()
        # The first transaction may have delivered messages, and put one of them back.
        self.flush()
        self._closed = True
        for handle in (self._transaction_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self.store.close()

    def build_delivery(self, record: MessageRecord) -> MessageDelivery:
        """Build the delivery of a message that was assigned to a receiver."""
        message = record.with_content(self.contents.get(record.id))
        if record.lock is None:
            return MessageDelivery(message, None, None)
        return MessageDelivery(message, record.lock.token, record.lock.until)

    def _deliver(self, delivery: MessageDelivery, assignment: Assignment) -> None:
        try:
            assignment.subscription.deliver(delivery)
        except Exception:
            logger.exception(
                "delivering a message to a receiver failed; the message is delivered again after"
                " its lock has expired"
            )
            if delivery.lock_token is None:
                self._put_back(delivery, assignment.record)

    def _put_back(self, delivery: MessageDelivery, record: MessageRecord) -> None:
        """Put a message back into its queue after a delivery in receive-and-delete mode failed.

        It is locked first, because the next delivery may fail, too. If the process dies before the
        next commit, the message is lost, as this mode allows.
        """
        message = delivery.message
        self.contents.add(
            record.id, IncomingMessage(message.header, message.annotations, message.bare)
        )
        self._states[record.queue].put_back(record, self.clock.now())
        self._schedule_transaction()

    def _schedule_transaction(self) -> None:
        if self._transaction_handle is None and not self._closed:
            self._transaction_handle = self._loop.call_soon(self._run_transaction)

    def _advance(self, now: datetime) -> None:
        if self._failing:
            return
        for lock in self.session_locks.end_expired(now):
            self._states[lock.queue].unlock_session_messages(lock, now)
        for record in self.table.due(now):
            state = self._states[record.queue]
            state.advance(record, now)
            self.mark_changed(state)
            if self.contents.unwritten_bytes > _MAX_UNWRITTEN_BYTES:
                # Many scheduled messages of a topic are due. The next transaction, for which
                # `_set_next_timer` sets a timer, makes the other changes.
                break

    def _run_transaction(self) -> None:
        self._transaction_handle = None
        waiters, self._waiters = self._waiters, []
        assignments: list[Assignment] = []
        try:
            self._assign(assignments)
            # Read the contents now. In receive-and-delete mode, the commit removes them.
            deliveries = [(self.build_delivery(each.record), each) for each in assignments]
            changes = self._changes()
            if changes:
                self.store.apply(changes)
                self.checkpointer.count_commit()
        except (sqlite3.Error, MessageStoreError) as error:
            self._roll_back(error, assignments, waiters)
            return
        self._confirm(changes)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for delivery, assignment in deliveries:
            self._deliver(delivery, assignment)
        now = self.clock.now()
        for dispatcher in list(self._dispatchers.values()):
            dispatcher.offer_sessions(now)
        self._set_next_timer()

    def _assign(self, assignments: list[Assignment]) -> None:
        if self._failing:
            return
        now = self.clock.now()
        self._advance(now)
        for dispatcher in self._dispatchers.values():
            if dispatcher.has_work:
                dispatcher.assign(now, _MAX_ASSIGNED_BYTES, assignments)
                if dispatcher.has_work:
                    self._schedule_transaction()

    def _changes(self) -> ChangeSet:
        changes = ChangeSet()
        for change in self.table.changes():
            if change.after is None:
                assert change.before is not None
                changes.deleted.append(change.before)
            elif change.before is None:
                content = self.contents.get(change.after.id)
                changes.inserted.append((change.after, content))
            else:
                changes.updated.append(change.after)
        for state in self._changed:
            number, seen = state.number, state.duplicates
            if state.next_sequence_number != state.committed_sequence_number:
                changes.sequence_numbers.append((number, state.next_sequence_number))
            changes.seen_ids += [(number, seen_id) for seen_id in seen.uncommitted()]
            if seen.forgotten_count >= _FORGET_BATCH:
                changes.forgotten_ids.append((number, seen.forgotten_through))
            session_states = state.uncommitted_session_states.values()
            changes.session_states += [(number, each) for each in session_states]
        return changes

    def _confirm(self, changes: ChangeSet) -> None:
        self.table.commit()
        for record in changes.deleted:
            self.contents.discard(record.id)
        self.contents.commit(record.id for record, _ in changes.inserted)
        for state in self._changed:
            state.commit()
            if state.duplicates.forgotten_count >= _FORGET_BATCH:
                state.duplicates.mark_purged()
        self._changed.clear()
        for lock in self.session_locks.ended():
            if self._states[lock.queue].unlock_session(lock):
                self.session_locks.remove(lock)
                if lock.is_expired:
                    self._loop.call_soon(lock.on_lost)
        if changes:
            self._disk.note_success()
        if changes and self._failing:
            logger.info("the broker's database is writable again")
            self._failing = False
            self._schedule_transaction()

    def _roll_back(
        self, error: Exception, assignments: list[Assignment], waiters: list[asyncio.Future[None]]
    ) -> None:
        self._disk.note_error(error.__cause__ or error)
        self.table.rollback()
        self.contents.rollback()
        for state in self._changed:
            state.rollback()
        self._changed.clear()
        for assignment in reversed(assignments):
            assignment.subscription.refund()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(
                    MessageStoreError(f"the change could not be written to the database: {error}")
                )
        if not self._failing:
            logger.error(
                "the broker's database cannot be written (%s): changes are refused and messages are"
                " not delivered; the next attempt is in %g s",
                error,
                _RETRY_SECONDS,
            )
        self._failing = True
        self._set_timer(_RETRY_SECONDS)

    # The timer for the next change that is due

    def _set_next_timer(self) -> None:
        due_times = self.table.next_due_at(), self.session_locks.next_due_at()
        due_at = min((each for each in due_times if each is not None), default=None)
        if due_at is not None and not self._failing:
            self._set_timer(max(0.0, (due_at - self.clock.now()).total_seconds()))

    def _set_timer(self, seconds: float) -> None:
        when = self._loop.time() + min(seconds + 0.001, _LONGEST_SLEEP_SECONDS)
        if self._timer is not None:
            # Keep an earlier timer: one unnecessary call costs less than moving the timer at
            # every settlement.
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self.retry)

    def retry(self) -> None:
        """Make the changes that are due, also if the last write failed."""
        self._timer = None
        self._failing = False
        self.tick()
