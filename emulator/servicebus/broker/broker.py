"""All queues of a namespace over one database."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from emulator.servicebus.broker.clock import Clock
from emulator.servicebus.broker.errors import (
    EntityAlreadyExists,
    EntityNotFound,
    MessageStoreError,
    SchemaError,
)
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.queue_state import QueueState
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.broker.store import StoredQueue
from emulator.servicebus.broker.transactions import TransactionManager

_DEAD_LETTER = "/$DeadLetterQueue"
_TRANSFER_DEAD_LETTER = "/$Transfer/$DeadLetterQueue"
_NUMBERS_PER_QUEUE = 3
"""A queue's id, and the two after it for its dead-letter queues."""


class Broker:
    """The queues and their messages. Lives on one event loop and is not thread-safe.

    Locks are durable: after a kill the holder may still settle within its lock, and otherwise the
    delivery counts as failed when the lock would have expired, whether the broker ran or not.
    """

    def __init__(self, transactions: TransactionManager) -> None:
        self._transactions = transactions
        self._queues: dict[str, Queue] = {}
        self._numbers: dict[str, int] = {}
        self._addresses: dict[str, Queue] = {}

    @classmethod
    async def open(
        cls, database: Path, settings: Iterable[QueueSettings], clock: Clock
    ) -> "Broker":
        """Open or create the database, and see that these queues exist with these settings.

        Queues that only the database knows are kept: their messages were accepted. Raises
        SchemaError for a database that is not ours, StorageError when it cannot be written.
        """
        transactions = TransactionManager(database, clock)
        broker = cls(transactions)
        try:
            broker._load(settings)
        except BaseException as error:
            await transactions.close()
            if isinstance(error, sqlite3.Error):
                raise SchemaError(f"{database} cannot be read: {error}") from error
            raise
        return broker

    async def close(self) -> None:
        """Write what is left and close the database; calls after this raise BrokerClosed."""
        await self._transactions.close()

    def tick(self) -> None:
        """Do what is due now, without waiting for the timer to notice."""
        self._transactions.tick()

    def trace(self, listener: Callable[[str], None] | None) -> None:
        """Let a listener hear every SQL statement, for those who count the cost."""
        self._transactions.store.trace(listener)

    def queue(self, address: str) -> Queue:
        """Return the queue or dead-letter queue at an address, in any case of letters."""
        try:
            return self._addresses[address.casefold()]
        except KeyError:
            raise EntityNotFound(f"there is no queue {address[:300]!r}") from None

    def queues(self) -> Sequence[Queue]:
        """Return all queues, without their dead-letter queues, by name."""
        return [queue for _, queue in sorted(self._queues.items())]

    async def create_queue(self, settings: QueueSettings) -> Queue:
        """Add a queue, which is there after a restart too; raises EntityAlreadyExists."""
        key = settings.name.casefold()
        if key in self._queues:
            raise EntityAlreadyExists(f"the queue {settings.name!r} exists already")
        self._transactions.tick()
        number = max(self._numbers.values(), default=-_NUMBERS_PER_QUEUE) + _NUMBERS_PER_QUEUE
        self._save(StoredQueue(number, settings, 1))
        return self._add(StoredQueue(number, settings, 1))

    async def update_queue(self, settings: QueueSettings) -> Queue:
        """Change the settings of a queue, for what happens from now on; raises EntityNotFound."""
        queue = self._own(settings.name)
        self._transactions.tick()
        self._save(StoredQueue(self._numbers[settings.name.casefold()], settings, 1))
        queue.reconfigure(settings)
        return queue

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with all its messages; raises EntityNotFound."""
        queue = self._own(name)
        self._transactions.tick()
        key = name.casefold()
        number = self._numbers[key]
        numbers = range(number, number + _NUMBERS_PER_QUEUE)
        try:
            self._transactions.store.delete_queue(number, numbers)
        except sqlite3.Error as error:
            raise MessageStoreError(f"the queue could not be deleted: {error}") from error
        queue.mark_deleted()
        self._transactions.remove(numbers)
        del self._queues[key], self._numbers[key]
        for suffix in ("", _DEAD_LETTER, _TRANSFER_DEAD_LETTER):
            del self._addresses[key + suffix.casefold()]

    def _own(self, name: str) -> Queue:
        try:
            return self._queues[name.casefold()]
        except KeyError:
            raise EntityNotFound(f"there is no queue {name[:300]!r}") from None

    def _save(self, stored: StoredQueue) -> None:
        try:
            self._transactions.store.save_queue(stored)
        except sqlite3.Error as error:
            raise MessageStoreError(f"the queue could not be written: {error}") from error

    def _load(self, wanted: Iterable[QueueSettings]) -> None:
        stored = {
            queue.settings.name.casefold(): queue for queue in self._transactions.store.queues()
        }
        next_number = max((each.id for each in stored.values()), default=-_NUMBERS_PER_QUEUE)
        for settings in wanted:
            key = settings.name.casefold()
            known = stored.get(key)
            if known is None:
                next_number += _NUMBERS_PER_QUEUE
                stored[key] = StoredQueue(next_number, settings, 1)
            elif known.settings != settings:
                stored[key] = replace(known, settings=settings)
            if stored[key] is not known:
                self._save(stored[key])
        for queue in stored.values():
            self._add(queue)
        self._transactions.load()

    def _add(self, stored: StoredQueue) -> Queue:
        transactions, settings, table = (
            self._transactions,
            stored.settings,
            self._transactions.table,
        )
        subqueues = []
        states = []
        for offset, suffix in enumerate((_DEAD_LETTER, _TRANSFER_DEAD_LETTER), start=1):
            state = QueueState(stored.id + offset, settings, table, None)
            address = settings.name + suffix
            subqueues.append(Queue(address, state, transactions.add(state), transactions))
            states.append(state)
        state = QueueState(
            stored.id, settings, table, states[0], next_sequence_number=stored.next_sequence_number
        )
        queue = Queue(settings.name, state, transactions.add(state), transactions, subqueues)
        key = settings.name.casefold()
        self._queues[key] = queue
        self._numbers[key] = stored.id
        for each in (queue, *subqueues):
            self._addresses[each.address.casefold()] = each
        return queue
