"""The contents of messages: on disk, except those that will be wanted soon."""

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from emulator.servicebus.broker.clock import Clock
from emulator.servicebus.broker.dispatcher import Assignment, Dispatcher, Subscription
from emulator.servicebus.broker.errors import BrokerClosed, MessageStoreError
from emulator.servicebus.broker.message import Delivery, IncomingMessage, MessageRecord
from emulator.servicebus.broker.message_table import MessageTable
from emulator.servicebus.broker.queue_state import QueueState
from emulator.servicebus.broker.store import ChangeSet, Checkpointer, MessageStore

CACHE_BYTES = 32 * 1024 * 1024


class ContentCache:
    """A bounded cache of contents, and those that are not on disk yet.

    A deep queue costs memory for its entries only; a message that is received soon after it was
    sent is never read back.
    """

    def __init__(
        self, read: Callable[[int], IncomingMessage], cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._read = read
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, IncomingMessage] = OrderedDict()
        self._cached_bytes = 0
        self._unwritten: dict[int, IncomingMessage] = {}

    def add(self, id_: int, content: IncomingMessage) -> None:
        """Keep the content of a new message until it is written, at least."""
        self._unwritten[id_] = content

    def get(self, id_: int) -> IncomingMessage:
        """Return the content of a message that is there."""
        content = self._unwritten.get(id_) or self._cached.get(id_)
        return self._read(id_) if content is None else content

    def discard(self, id_: int) -> None:
        """Let go of the content of a message that is gone."""
        content = self._cached.pop(id_, None)
        if content is not None:
            self._cached_bytes -= content.size_bytes

    def commit(self, written: Iterable[int]) -> None:
        """Take note that these contents are on disk now, and that no others are wanted."""
        for id_ in written:
            content = self._unwritten[id_]
            self._cached[id_] = content
            self._cached_bytes += content.size_bytes
        self._unwritten.clear()
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.size_bytes

    def rollback(self) -> None:
        """Forget the contents that did not reach the disk."""
        self._unwritten.clear()


_RETRY_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 3600.0
_MAX_ASSIGNED_BYTES = 8 * 1024 * 1024
_FORGET_BATCH = 256

logger = logging.getLogger(__name__)


class TransactionManager:
    """Groups changes into transactions, and does by itself what the time demands.

    Callers change states at once and wait for ``committed``. At the end of the tick the turn
    hands ready messages to willing receivers, writes everything, and only then tells anyone. If
    the write fails, memory goes back to what the disk holds.
    """

    def __init__(self, database: Path, clock: Clock) -> None:
        self.clock = clock
        self.store = MessageStore(database)
        self._checkpointer = Checkpointer(database)
        self.table = MessageTable()
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
        """Take a queue in; its messages are handed out through the dispatcher."""
        dispatcher = Dispatcher(state, self._schedule_transaction)
        self._states[state.number] = state
        self._dispatchers[state.number] = dispatcher
        return dispatcher

    def remove(self, numbers: range) -> None:
        """Forget queues with all that is in them, outside any transaction."""
        for number in numbers:
            del self._states[number]
            self._dispatchers.pop(number).close()
            self.table.drop_queue(number)

    def load(self) -> None:
        """Read what the database holds of the queues, and do what fell due meanwhile."""
        for record in self.store.records():
            self.table.load(record)
        for number, seen_id in self.store.seen_ids():
            self._states[number].duplicates.load(seen_id)
        self.tick()

    def begin(self) -> datetime:
        """Start a change: returns the time, with everything done that was due before it."""
        if self._closed:
            raise BrokerClosed("the broker is closed")
        now = self.clock.now()
        self._advance(now)
        self._schedule_transaction()
        return now

    def mark_changed(self, state: QueueState) -> None:
        """Take note that more than the entries of a queue changes in this turn."""
        self._changed.add(state)

    async def wait_until_committed(self) -> None:
        """Wait until the changes so far are durable; raises StorageError if they are undone."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def flush(self) -> None:
        """Write what this tick has changed so far, so that what is read next is durable."""
        if self._transaction_handle is not None:
            self._transaction_handle.cancel()
            self._run_transaction()

    def tick(self) -> None:
        """Do what is due now, and be done with it."""
        self.begin()
        self.flush()

    async def close(self) -> None:
        """Write what is left and close the database."""
        await self._checkpointer.close()
        if self._closed:
            return
        self.flush()
        self._closed = True
        for handle in (self._transaction_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self.store.close()

    def build_delivery(self, record: MessageRecord) -> Delivery:
        """Return an entry that was handed out as its receiver gets it."""
        message = record.with_content(self.contents.get(record.id))
        if record.lock is None:
            return Delivery(message, None, None)
        return Delivery(message, record.lock.token, record.lock.until)

    def _deliver(self, delivery: Delivery, subscription: Subscription) -> None:
        try:
            subscription.deliver(delivery)
        except Exception:
            logger.exception("a receiver failed to take a message, which stays locked")

    def _schedule_transaction(self) -> None:
        if self._transaction_handle is None and not self._closed:
            self._transaction_handle = self._loop.call_soon(self._run_transaction)

    def _advance(self, now: datetime) -> None:
        if self._failing:
            return
        for record in self.table.due(now):
            state = self._states[record.queue]
            state.advance(record, now)
            self.mark_changed(state)

    def _run_transaction(self) -> None:
        self._transaction_handle = None
        waiters, self._waiters = self._waiters, []
        assignments: list[Assignment] = []
        try:
            self._assign(assignments)
            # Before the write: a message that is received and deleted is gone after it.
            deliveries = [
                (each.subscription, self.build_delivery(each.record)) for each in assignments
            ]
            changes = self._changes()
            if changes:
                self.store.apply(changes)
                self._checkpointer.count_commit()
        except (sqlite3.Error, MessageStoreError) as error:
            self._roll_back(error, assignments, waiters)
            return
        self._confirm(changes)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for subscription, delivery in deliveries:
            self._deliver(delivery, subscription)
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
        if changes and self._failing:
            logger.info("the broker's database can be written again")
            self._failing = False
            self._schedule_transaction()

    def _roll_back(
        self, error: Exception, assignments: list[Assignment], waiters: list[asyncio.Future[None]]
    ) -> None:
        self.table.rollback()
        self.contents.rollback()
        for state in self._changed:
            state.rollback()
        self._changed.clear()
        for assignment in reversed(assignments):
            assignment.subscription.refund()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(MessageStoreError(f"the change could not be written: {error}"))
        if not self._failing:
            logger.error(
                "the broker's database cannot be written (%s): changes are refused and nothing is"
                " delivered; the next try is in %g s",
                error,
                _RETRY_SECONDS,
            )
        self._failing = True
        self._set_timer(_RETRY_SECONDS)

    # The timer: one for the whole broker

    def _set_next_timer(self) -> None:
        due_at = self.table.next_due_at()
        if due_at is not None and not self._failing:
            self._set_timer(max(0.0, (due_at - self.clock.now()).total_seconds()))

    def _set_timer(self, seconds: float) -> None:
        when = self._loop.time() + min(seconds + 0.001, _LONGEST_SLEEP_SECONDS)
        if self._timer is not None:
            # Waking too early costs one look at the agenda; moving the timer at every settlement
            # would cost more.
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._failing = False
        self.tick()
