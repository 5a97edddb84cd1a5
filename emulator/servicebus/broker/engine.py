"""Turns: all that happens in one tick of the event loop is written in one transaction."""

import asyncio
import logging
import sqlite3
from datetime import datetime
from pathlib import Path

from emulator.servicebus.broker.checkpoint import Checkpointer
from emulator.servicebus.broker.clock import Clock
from emulator.servicebus.broker.contents import Contents
from emulator.servicebus.broker.dispatcher import Dispatcher, Handout
from emulator.servicebus.broker.entry import Entry
from emulator.servicebus.broker.errors import BrokerClosed, StorageError
from emulator.servicebus.broker.ledger import Ledger
from emulator.servicebus.broker.message import Delivery
from emulator.servicebus.broker.state import QueueState
from emulator.servicebus.broker.store import ChangeSet, Store
from emulator.servicebus.broker.subscription import Subscription

_RETRY_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 3600.0
_TURN_BYTES = 8 * 1024 * 1024
_FORGET_BATCH = 256

logger = logging.getLogger(__name__)


class Engine:
    """Groups changes into transactions, and does by itself what the time demands.

    Callers change states at once and wait for ``committed``. At the end of the tick the turn
    hands ready messages to willing receivers, writes everything, and only then tells anyone. If
    the write fails, memory goes back to what the disk holds.
    """

    def __init__(self, database: Path, clock: Clock) -> None:
        self.clock = clock
        self.store = Store(database)
        self._checkpointer = Checkpointer(database)
        self.ledger = Ledger()
        self.contents = Contents(self.store.content)
        self._loop = asyncio.get_running_loop()
        self._states: dict[int, QueueState] = {}
        self._dispatchers: dict[int, Dispatcher] = {}
        self._touched: set[QueueState] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._turn_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failing = False
        self._closed = False

    def add(self, state: QueueState) -> Dispatcher:
        """Take a queue in; its messages are handed out through the dispatcher."""
        dispatcher = Dispatcher(state, self._schedule_turn)
        self._states[state.number] = state
        self._dispatchers[state.number] = dispatcher
        return dispatcher

    def remove(self, numbers: range) -> None:
        """Forget queues with all that is in them, outside any transaction."""
        for number in numbers:
            del self._states[number]
            self._dispatchers.pop(number).close()
            self.ledger.drop_shelf(number)

    def load(self) -> None:
        """Read what the database holds of the queues, and do what fell due meanwhile."""
        for entry in self.store.entries():
            self.ledger.load(entry)
        for number, sighting in self.store.sightings():
            self._states[number].duplicates.load(sighting)
        self.tick()

    def begin(self) -> datetime:
        """Start a change: returns the time, with everything done that was due before it."""
        if self._closed:
            raise BrokerClosed("the broker is closed")
        now = self.clock.now()
        self._advance(now)
        self._schedule_turn()
        return now

    def touch(self, state: QueueState) -> None:
        """Take note that more than the entries of a queue changes in this turn."""
        self._touched.add(state)

    async def committed(self) -> None:
        """Wait until the changes so far are durable; raises StorageError if they are undone."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def flush(self) -> None:
        """Write what this tick has changed so far, so that what is read next is durable."""
        if self._turn_handle is not None:
            self._turn_handle.cancel()
            self._turn()

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
        for handle in (self._turn_handle, self._timer):
            if handle is not None:
                handle.cancel()
        self.store.close()

    def delivery(self, entry: Entry) -> Delivery:
        """Return an entry that was handed out as its receiver gets it."""
        message = entry.with_content(self.contents.get(entry.id))
        if entry.lock is None:
            return Delivery(message, None, None)
        return Delivery(message, entry.lock.token, entry.lock.until)

    def _deliver(self, delivery: Delivery, subscription: Subscription) -> None:
        try:
            subscription.deliver(delivery)
        except Exception:
            logger.exception("a receiver failed to take a message, which stays locked")

    def _schedule_turn(self) -> None:
        if self._turn_handle is None and not self._closed:
            self._turn_handle = self._loop.call_soon(self._turn)

    def _advance(self, now: datetime) -> None:
        if self._failing:
            return
        for entry in self.ledger.due(now):
            state = self._states[entry.queue]
            state.advance(entry, now)
            self.touch(state)

    def _turn(self) -> None:
        self._turn_handle = None
        waiters, self._waiters = self._waiters, []
        handouts: list[Handout] = []
        try:
            self._hand_out(handouts)
            # Before the write: a message that is received and deleted is gone after it.
            deliveries = [(each.subscription, self.delivery(each.entry)) for each in handouts]
            changes = self._changes()
            if changes:
                self.store.apply(changes)
                self._checkpointer.committed()
        except (sqlite3.Error, StorageError) as error:
            self._undo(error, handouts, waiters)
            return
        self._keep(changes)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        for subscription, delivery in deliveries:
            self._deliver(delivery, subscription)
        self._arm()

    def _hand_out(self, handouts: list[Handout]) -> None:
        if self._failing:
            return
        now = self.clock.now()
        self._advance(now)
        for dispatcher in self._dispatchers.values():
            if dispatcher.busy:
                dispatcher.hand_out(now, _TURN_BYTES, handouts)
                if dispatcher.busy:
                    self._schedule_turn()

    def _changes(self) -> ChangeSet:
        changes = ChangeSet()
        for change in self.ledger.changes():
            if change.after is None:
                assert change.before is not None
                changes.deleted.append(change.before)
            elif change.before is None:
                content = self.contents.get(change.after.id)
                changes.inserted.append((change.after, content))
            else:
                changes.updated.append(change.after)
        for state in self._touched:
            number, seen = state.number, state.duplicates
            if state.next_sequence_number != state.committed_sequence_number:
                changes.sequence_numbers.append((number, state.next_sequence_number))
            changes.sightings += [(number, sighting) for sighting in seen.uncommitted()]
            if seen.forgotten_count >= _FORGET_BATCH:
                changes.forgotten_sightings.append((number, seen.forgotten_through))
        return changes

    def _keep(self, changes: ChangeSet) -> None:
        self.ledger.commit()
        for entry in changes.deleted:
            self.contents.discard(entry.id)
        self.contents.commit(entry.id for entry, _ in changes.inserted)
        for state in self._touched:
            state.commit()
            if state.duplicates.forgotten_count >= _FORGET_BATCH:
                state.duplicates.purged()
        self._touched.clear()
        if changes and self._failing:
            logger.info("the broker's database can be written again")
            self._failing = False
            self._schedule_turn()

    def _undo(
        self, error: Exception, handouts: list[Handout], waiters: list[asyncio.Future[None]]
    ) -> None:
        self.ledger.rollback()
        self.contents.rollback()
        for state in self._touched:
            state.rollback()
        self._touched.clear()
        for handout in reversed(handouts):
            handout.subscription.refund()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(StorageError(f"the change could not be written: {error}"))
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

    def _arm(self) -> None:
        due_at = self.ledger.next_due_at()
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
