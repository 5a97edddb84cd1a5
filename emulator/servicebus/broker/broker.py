"""Create, find, change and delete the queues and topics of a namespace in one database."""

import logging
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emulator.clock import UtcClock
from emulator.servicebus.broker.authorization import AuthorizationRule, check_rules
from emulator.servicebus.broker.errors import (
    EntityAlreadyExists,
    EntityNotFound,
    SchemaError,
)
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.queue_state import QueueState
from emulator.servicebus.broker.settings import (
    SUBSCRIPTIONS,
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
    subscription_address,
)
from emulator.servicebus.broker.store import StoredQueue, report_failed_write
from emulator.servicebus.broker.topic import (
    MessageFormat,
    NoProperties,
    SubscriptionState,
    Topic,
    TopicState,
    TopicSubscription,
)
from emulator.servicebus.broker.transactions import TransactionManager

_DEAD_LETTER = "/$DeadLetterQueue"
_TRANSFER_DEAD_LETTER = "/$Transfer/$DeadLetterQueue"
_NUMBERS_PER_QUEUE = 3
"""How many internal numbers a queue uses: one for itself and two for its dead-letter queues."""
_NO_PROPERTIES = NoProperties()

logger = logging.getLogger(__name__)


class Broker:
    """The broker for the queues and topics of a namespace, on one event loop.

    Message locks are durable: a receiver can settle after a restart, and a lock that expires
    meanwhile counts as a failed delivery. Locks on message sessions are not.
    """

    def __init__(
        self, transactions: TransactionManager, message_format: MessageFormat = _NO_PROPERTIES
    ) -> None:
        self.transactions = transactions
        self._message_format = message_format
        self._queues: dict[str, Queue] = {}
        self._numbers: dict[str, int] = {}
        self._addresses: dict[str, Queue] = {}
        self._rules: dict[str, AuthorizationRule] = {}

    @classmethod
    async def open(
        cls,
        database: Path,
        settings: Iterable[QueueSettings],
        clock: UtcClock,
        message_format: MessageFormat = _NO_PROPERTIES,
    ) -> "Broker":
        """Open or create the database, and create or update what `settings` has.

        Queues that are only in the database stay. Raises SchemaError if the file is no database of
        the broker or in use, or a queue would change whether it requires sessions;
        MessageStoreError if it cannot be written; EntityAlreadyExists if a queue and a topic share
        a name.
        """
        transactions = TransactionManager(database, clock)
        broker = cls(transactions, message_format)
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
        await self.transactions.close()

    def queue(self, address: str) -> Queue:
        """Return the queue, topic, subscription or dead-letter queue with this address.

        Case does not matter. Raises EntityNotFound if nothing has this address.
        """
        try:
            return self._addresses[address.casefold()]
        except KeyError:
            raise EntityNotFound(address) from None

    def queues(self) -> Sequence[Queue]:
        """Return all queues, sorted by name. Dead-letter queues are not included."""
        return [
            queue
            for _, queue in sorted(self._queues.items())
            if not isinstance(queue, Topic | TopicSubscription)
        ]

    def topics(self) -> Sequence[Topic]:
        """Return all topics, sorted by name."""
        return [topic for _, topic in sorted(self._queues.items()) if isinstance(topic, Topic)]

    def topic(self, name: str) -> Topic:
        """Return the topic with this name. Raises EntityNotFound if the topic does not exist."""
        topic = self._queues.get(name.casefold())
        if not isinstance(topic, Topic):
            raise EntityNotFound(name)
        return topic

    def subscription(self, topic: str, name: str) -> TopicSubscription:
        """Return the subscription `name` of the topic. Raises EntityNotFound if there is none."""
        address = subscription_address(topic, name)
        subscription = self._queues.get(address.casefold())
        if not isinstance(subscription, TopicSubscription):
            raise EntityNotFound(address)
        return subscription

    def find_owner(self, path: str) -> Queue | None:
        """Return the queue, topic or subscription of a path such as `q/$management`, or None."""
        name, _, _ = path.strip("/").casefold().partition("/$")
        return self._queues.get(name)

    def find_policy_owner(self, path: str) -> Queue | None:
        """Return the queue or topic whose policies are valid for a path, or None."""
        owner = self.find_owner(path)
        if owner is not None and not isinstance(owner, TopicSubscription):
            return owner
        folded = f"{path.strip('/').casefold()}/"
        name, found, _ = folded.rpartition(SUBSCRIPTIONS.casefold())
        topic = self._queues.get(name) if found else None
        return topic if isinstance(topic, Topic) else None

    # The namespace's shared access policies

    @property
    def authorization_rules(self) -> Mapping[str, AuthorizationRule]:
        """The namespace's shared access policies in the database, by name."""
        return self._rules

    async def save_authorization_rule(self, rule: AuthorizationRule) -> None:
        """Create or replace a policy of the namespace. Raises ArgumentError if too many."""
        rules = {**self._rules, rule.name: rule}
        check_rules(rules.values())
        with report_failed_write(f"the policy {rule.name!r} could not be written to the database"):
            self.transactions.store.save_rule(rule)
        self._rules = rules

    async def delete_authorization_rule(self, name: str) -> None:
        """Delete a policy of the namespace. Raises EntityNotFound."""
        if name not in self._rules:
            raise EntityNotFound(name)
        with report_failed_write(f"the policy {name!r} could not be deleted from the database"):
            self.transactions.store.delete_rule(name)
        self._rules = {key: rule for key, rule in self._rules.items() if key != name}

    # Queues, topics and subscriptions

    async def create_queue(self, settings: QueueSettings) -> Queue:
        """Create a queue and return it. Raises EntityAlreadyExists if the name is in use."""
        return self._create(settings)

    async def set_queue(self, settings: QueueSettings) -> None:
        """Create a queue or replace its settings. Raises EntityAlreadyExists or SchemaError."""
        known = self._queues.get(settings.name.casefold())
        if known is None:
            self._create(settings)
        elif known.settings != settings:
            _check_change(known.settings, settings)
            await self.update_queue(settings)

    async def create_topic(self, settings: TopicSettings) -> Topic:
        """Create a topic and return it. Raises EntityAlreadyExists if the name is in use."""
        topic = self._create(settings)
        assert isinstance(topic, Topic)
        return topic

    async def create_subscription(self, settings: SubscriptionSettings) -> TopicSubscription:
        """Create a subscription. Raises EntityNotFound or EntityAlreadyExists."""
        topic = self.topic(settings.topic_name)
        name = subscription_address(topic.address, settings.subscription_name)
        subscription = self._create(replace(settings, name=name))
        assert isinstance(subscription, TopicSubscription)
        return subscription

    def _create(self, settings: QueueSettings) -> Queue:
        key = settings.name.casefold()
        if key in self._queues:
            kind = self._queues[key].settings.KIND
            raise EntityAlreadyExists(f"the {kind} {settings.name!r} already exists")
        self.transactions.tick()
        number = max(self._numbers.values(), default=-_NUMBERS_PER_QUEUE) + _NUMBERS_PER_QUEUE
        now = self.transactions.clock.now()
        stored = StoredQueue(number, settings, 1, now, now)
        self._save(stored)
        return self._add(stored)

    async def update_queue(self, settings: QueueSettings) -> Queue:
        """Replace the settings of a queue, topic or subscription. Raises EntityNotFound."""
        queue = self._own(settings.name)
        self.transactions.tick()
        queue.save_settings(settings)
        return queue

    async def delete_queue(self, name: str) -> None:
        """Delete a queue, a subscription or a topic with these. Raises EntityNotFound."""
        queue = self._own(name)
        self.transactions.tick()
        deleted = [*queue.subscriptions, queue] if isinstance(queue, Topic) else [queue]
        with report_failed_write(f"the queue {name!r} could not be deleted from the database"):
            self.transactions.store.delete_queues(map(self._numbers_of, deleted))
        for each in deleted:
            self._forget(each)

    async def delete_idle(self) -> None:
        """Delete the queues, topics and subscriptions that were idle for `auto_delete_on_idle`."""
        now = self.transactions.clock.now()
        for queue in list(self._queues.values()):
            limit = queue.settings.auto_delete_on_idle
            is_idle = limit is not None and now - queue.find_last_access(now) >= limit
            # A subscription may have been deleted together with its topic.
            if is_idle and self.find_owner(queue.address) is queue:
                logger.info("deleting %s, which was idle for %s", queue.address, limit)
                await self.delete_queue(queue.address)

    def _numbers_of(self, queue: Queue) -> range:
        number = self._numbers[queue.address.casefold()]
        return range(number, number + _NUMBERS_PER_QUEUE)

    def _forget(self, queue: Queue) -> None:
        """Remove a deleted queue from memory."""
        key = queue.address.casefold()
        numbers = self._numbers_of(queue)
        if isinstance(queue, TopicSubscription):
            self._topic_of(queue).remove_subscription(queue, numbers.start)
        queue.mark_deleted()
        self.transactions.remove(numbers)
        del self._queues[key], self._numbers[key]
        for suffix in ("", _DEAD_LETTER, _TRANSFER_DEAD_LETTER):
            self._addresses.pop(key + suffix.casefold(), None)

    def _topic_of(self, subscription: TopicSubscription) -> Topic:
        settings = subscription.settings
        assert isinstance(settings, SubscriptionSettings)
        return self.topic(settings.topic_name)

    def _own(self, name: str) -> Queue:
        try:
            return self._queues[name.casefold()]
        except KeyError:
            raise EntityNotFound(name) from None

    def _save(self, stored: StoredQueue) -> None:
        kind, name = stored.settings.KIND, stored.settings.name
        with report_failed_write(f"the {kind} {name!r} could not be written to the database"):
            self.transactions.store.save_queue(stored)

    def _load(self, wanted: Iterable[QueueSettings]) -> None:
        self._rules = {rule.name: rule for rule in self.transactions.store.rules()}
        stored = {
            queue.settings.name.casefold(): queue for queue in self.transactions.store.queues()
        }
        next_number = max((each.id for each in stored.values()), default=-_NUMBERS_PER_QUEUE)
        now = self.transactions.clock.now()
        for settings in wanted:
            key = settings.name.casefold()
            known = stored.get(key)
            if known is None:
                next_number += _NUMBERS_PER_QUEUE
                stored[key] = StoredQueue(next_number, settings, 1, now, now)
            elif known.settings != settings:
                _check_change(known.settings, settings)
                stored[key] = replace(known, settings=settings, updated_at=now)
            if stored[key] is not known:
                self._save(stored[key])
        # A subscription can be added only after its topic.
        for queue in sorted(stored.values(), key=_is_subscription):
            self._add(queue)
        self.transactions.load()

    def _add(self, stored: StoredQueue) -> Queue:
        if isinstance(stored.settings, TopicSettings):
            queue: Queue = self._build_topic(stored)
        else:
            queue = self._build_queue(stored)
        queue.created_at, queue.updated_at = stored.created_at, stored.updated_at
        key = queue.address.casefold()
        self._queues[key] = queue
        self._numbers[key] = stored.id
        self._addresses[key] = queue
        return queue

    def _build_topic(self, stored: StoredQueue) -> Topic:
        transactions = self.transactions
        state = TopicState(
            stored.id,
            stored.settings,
            transactions.table,
            transactions.contents,
            self._message_format,
        )
        state.next_sequence_number = stored.next_sequence_number
        state.commit()
        return Topic(stored.settings.name, state, transactions.add(state), transactions)

    def _build_queue(self, stored: StoredQueue) -> Queue:
        """Build a queue or a subscription, with its dead-letter queues."""
        transactions, settings, table = (
            self.transactions,
            stored.settings,
            self.transactions.table,
        )
        subqueues = []
        states = []
        for offset, suffix in enumerate((_DEAD_LETTER, _TRANSFER_DEAD_LETTER), start=1):
            state = QueueState(stored.id + offset, settings, table, None)
            address = settings.name + suffix
            subqueues.append(Queue(address, state, transactions.add(state), transactions))
            states.append(state)
        for each in subqueues:
            self._addresses[each.address.casefold()] = each
        number = stored.next_sequence_number
        if not isinstance(settings, SubscriptionSettings):
            state = QueueState(stored.id, settings, table, states[0], number)
            return Queue(settings.name, state, transactions.add(state), transactions, subqueues)
        own = SubscriptionState(stored.id, settings, table, states[0], number)
        subscription = TopicSubscription(
            settings.name, own, transactions.add(own), transactions, subqueues
        )
        self.topic(settings.topic_name).add_subscription(subscription, own)
        return subscription


def _is_subscription(stored: StoredQueue) -> bool:
    return isinstance(stored.settings, SubscriptionSettings)


def _check_change(known: QueueSettings, wanted: QueueSettings) -> None:
    """Raise an error if the settings of a queue in the database cannot become `wanted`."""
    if known.KIND != wanted.KIND:
        raise EntityAlreadyExists(
            f"the {wanted.KIND} {wanted.name!r} cannot be created, because the database"
            f" has a {known.KIND} with this name: choose another name, or another"
            " directory with --data"
        )
    if known.requires_session != wanted.requires_session:
        raise SchemaError(
            f"queue {wanted.name!r}: RequiresSession cannot be changed and is"
            f" {str(known.requires_session).lower()} in the database: delete the "
            "queue first, or choose another directory with --data"
        )
