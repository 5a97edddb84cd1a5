"""Create, find, change and delete the queues of a namespace, which share one database."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from emulator.servicebus.broker.authorization import AuthorizationRule, check_rules
from emulator.servicebus.broker.clock import UtcClock
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
"""How many internal numbers a queue uses: one for itself and two for its dead-letter queues."""


class Broker:
    """The broker for the queues of a namespace. It runs on one event loop and is not thread-safe.

    Message locks are durable. After a restart of the broker, a receiver can still settle a message
    until the message's lock expires. If the lock expires while the broker is not running, the
    delivery counts as failed. Locks on message sessions are not durable: like the end of a
    connection, a restart of the broker releases all sessions.
    """

    def __init__(self, transactions: TransactionManager) -> None:
        self._transactions = transactions
        self._queues: dict[str, Queue] = {}
        self._numbers: dict[str, int] = {}
        self._addresses: dict[str, Queue] = {}
        self._rules: dict[str, AuthorizationRule] = {}

    @classmethod
    async def open(
        cls, database: Path, settings: Iterable[QueueSettings], clock: UtcClock
    ) -> "Broker":
        """Open or create the database, and create or update the queues in `settings`.

        Queues that are in the database but not in `settings` are kept with their messages. Raises
        SchemaError if the file is not a database of the broker or is in use, or if `settings`
        changes whether a queue requires sessions. Raises MessageStoreError if the database cannot
        be written.
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
        """Write all changes and close the database. Later operations raise BrokerClosed."""
        await self._transactions.close()

    def tick(self) -> None:
        """Make the changes that are due, and write them to the database.

        A lock on a message or a message session expires at its expiry time. A message expires at
        the end of its time to live. A scheduled message becomes active at its scheduled time.
        """
        self._transactions.tick()

    def trace(self, listener: Callable[[str], None] | None) -> None:
        """Call `listener` with the text of each SQL statement, until `trace(None)` is called.

        Tests use this method to count SQL statements.
        """
        self._transactions.store.trace(listener)

    def queue(self, address: str) -> Queue:
        """Return the queue or dead-letter queue that has this address.

        Upper and lower case are not distinguished.

        Raises EntityNotFound if no queue has this address.
        """
        try:
            return self._addresses[address.casefold()]
        except KeyError:
            raise EntityNotFound(address) from None

    def queues(self) -> Sequence[Queue]:
        """Return all queues, sorted by name. Dead-letter queues are not included."""
        return [queue for _, queue in sorted(self._queues.items())]

    def find_owner(self, path: str) -> Queue | None:
        """Return the queue to which a path belongs, for example `q` for `q/$management`.

        Return None if no queue matches. The path `a/b` belongs only to a queue with this name, not
        to the queue `a`.
        """
        name, _, _ = path.strip("/").casefold().partition("/$")
        return self._queues.get(name)

    # The namespace's shared access policies

    @property
    def authorization_rules(self) -> Mapping[str, AuthorizationRule]:
        """The namespace's shared access policies in the database, by name."""
        return self._rules

    async def save_authorization_rule(self, rule: AuthorizationRule) -> None:
        """Create a shared access policy of the namespace, or replace the one with the same name.

        Raises ArgumentError if the namespace has too many policies.
        """
        rules = {**self._rules, rule.name: rule}
        check_rules(rules.values())
        with _report_failed_write(f"the policy {rule.name!r} could not be written to the database"):
            self._transactions.store.save_rule(rule)
        self._rules = rules

    async def delete_authorization_rule(self, name: str) -> None:
        """Delete a shared access policy of the namespace.

        Raises EntityNotFound if the policy does not exist.
        """
        if name not in self._rules:
            raise EntityNotFound(name)
        with _report_failed_write(f"the policy {name!r} could not be deleted from the database"):
            self._transactions.store.delete_rule(name)
        self._rules = {key: rule for key, rule in self._rules.items() if key != name}

    # Queues

    async def create_queue(self, settings: QueueSettings) -> Queue:
        """Create a queue and return it. Raises EntityAlreadyExists if the name is in use."""
        key = settings.name.casefold()
        if key in self._queues:
            raise EntityAlreadyExists(f"the queue {settings.name!r} already exists")
        self._transactions.tick()
        number = max(self._numbers.values(), default=-_NUMBERS_PER_QUEUE) + _NUMBERS_PER_QUEUE
        self._save(StoredQueue(number, settings, 1))
        return self._add(StoredQueue(number, settings, 1))

    async def update_queue(self, settings: QueueSettings) -> Queue:
        """Replace the settings of a queue, and return the queue.

        Raises EntityNotFound if the queue does not exist.
        """
        queue = self._own(settings.name)
        self._transactions.tick()
        self._save(StoredQueue(self._numbers[settings.name.casefold()], settings, 1))
        queue.reconfigure(settings)
        return queue

    async def delete_queue(self, name: str) -> None:
        """Delete a queue and all its messages.

        Raises EntityNotFound if the queue does not exist.
        """
        queue = self._own(name)
        self._transactions.tick()
        key = name.casefold()
        number = self._numbers[key]
        numbers = range(number, number + _NUMBERS_PER_QUEUE)
        with _report_failed_write(f"the queue {name!r} could not be deleted from the database"):
            self._transactions.store.delete_queue(number, numbers)
        queue.mark_deleted()
        self._transactions.remove(numbers)
        del self._queues[key], self._numbers[key]
        for suffix in ("", _DEAD_LETTER, _TRANSFER_DEAD_LETTER):
            del self._addresses[key + suffix.casefold()]

    def _own(self, name: str) -> Queue:
        try:
            return self._queues[name.casefold()]
        except KeyError:
            raise EntityNotFound(name) from None

    def _save(self, stored: StoredQueue) -> None:
        name = stored.settings.name
        with _report_failed_write(f"the queue {name!r} could not be written to the database"):
            self._transactions.store.save_queue(stored)

    def _load(self, wanted: Iterable[QueueSettings]) -> None:
        self._rules = {rule.name: rule for rule in self._transactions.store.rules()}
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
            elif known.settings.requires_session != settings.requires_session:
                raise SchemaError(
                    f"queue {settings.name!r}: RequiresSession cannot be changed: the queue exists"
                    f" with {str(known.settings.requires_session).lower()}; delete the queue first,"
                    " or choose another directory with --data"
                )
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


@contextmanager
def _report_failed_write(problem: str) -> Iterator[None]:
    """Convert an error of SQLite during the `with` block to MessageStoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise MessageStoreError(f"{problem}: {error}") from error
