"""Topics and their subscriptions.

A subscription is a queue that gets its messages from its topic. When a message is sent to a topic,
or when a scheduled message of the topic becomes active, each subscription with a rule that selects
the message gets one or more copies. All copies are written to the database in one transaction.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from emulator.servicebus.broker.dispatcher import Dispatcher
from emulator.servicebus.broker.errors import (
    EntityAlreadyExists,
    EntityNotFound,
    MessageStoreError,
    NotAllowed,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageRecord
from emulator.servicebus.broker.message_table import MessageTable
from emulator.servicebus.broker.property_values import MessageProperties, PropertyUpdate
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.queue_state import QueueState
from emulator.servicebus.broker.settings import QueueSettings, SubscriptionSettings
from emulator.servicebus.broker.subscription_rules import SubscriptionRule
from emulator.servicebus.broker.transactions import ContentCache, TransactionManager


class MessageFormat(Protocol):
    """Reads and changes the properties of encoded messages."""

    def read_properties(self, message: IncomingMessage) -> MessageProperties:
        """Return the properties of a message that filters can compare."""
        ...

    def update_properties(
        self, message: IncomingMessage, updates: Sequence[PropertyUpdate]
    ) -> IncomingMessage:
        """Apply `updates` to the properties of a message, and return the changed message."""
        ...


class NoProperties:
    """A message format whose messages have no properties."""

    def read_properties(self, _: IncomingMessage) -> MessageProperties:
        """Return no properties."""
        return MessageProperties()

    def update_properties(
        self, message: IncomingMessage, _: Sequence[PropertyUpdate]
    ) -> IncomingMessage:
        """Return the message unchanged."""
        return message


_RETRY = timedelta(seconds=1)


class SubscriptionState(QueueState):
    """The state of a topic's subscription."""

    def make_copies(
        self, message: IncomingMessage, properties: MessageProperties, message_format: MessageFormat
    ) -> list[IncomingMessage]:
        """Return the copies of a message that the subscription gets.

        Each selecting rule with an action makes a copy; those without make one together.
        """
        assert isinstance(self.settings, SubscriptionSettings)
        found = [rule for rule in self.settings.rules if rule.filter.matches(properties)]
        copies = [message] if any(rule.action is None for rule in found) else []
        for rule in found:
            if rule.action is not None:
                updates = rule.find_updates(properties)
                copies.append(message_format.update_properties(message, updates))
        return copies

    def add_copy(
        self,
        message: IncomingMessage,
        first_number: int,
        expires_at: datetime | None,
        now: datetime,
    ) -> MessageRecord:
        """Add a copy of a topic's message, and return the copy's record.

        A copy that an action has made too large is dead-lettered.
        """
        record = self._enqueue(message, self._new_sequence_number(), first_number, now)
        assert record is not None
        if expires_at is not None and (record.expires_at is None or expires_at < record.expires_at):
            record = replace(record, expires_at=expires_at)
            self._table.put(record)
        if record.size_bytes > self.settings.max_message_bytes:
            self._move_to_dead_letters(
                record, "HeaderSizeExceeded", "The action of a rule has made the message too large."
            )
        return record


class TopicState(QueueState):
    """The state of a topic. The topic itself stores only scheduled messages."""

    def __init__(
        self,
        number: int,
        settings: QueueSettings,
        table: MessageTable,
        contents: ContentCache,
        message_format: MessageFormat,
    ) -> None:
        super().__init__(number, settings, table, None)
        self.subscriptions: list[SubscriptionState] = []
        self.dropped_count = 0
        """The number of messages since the start that no subscription got."""
        self._committed_dropped_count = 0
        self._contents = contents
        self._message_format = message_format

    @property
    def changed_states(self) -> Sequence[QueueState]:
        """The states of the topic and all its subscriptions."""
        return (self, *self.subscriptions)

    def commit(self) -> None:
        """Keep the changes since the last commit. `rollback` can no longer undo them."""
        super().commit()
        self._committed_dropped_count = self.dropped_count

    def rollback(self) -> None:
        """Restore the state of the last commit, including the number of dropped messages."""
        super().rollback()
        self.dropped_count = self._committed_dropped_count

    def _enqueue(
        self, message: IncomingMessage, number: int, first_number: int, now: datetime
    ) -> MessageRecord | None:
        if message.scheduled_at is not None and message.scheduled_at > now:
            return super()._enqueue(message, number, first_number, now)
        self._publish(message, first_number, now)
        return None

    def _activate(self, record: MessageRecord, now: datetime) -> None:
        try:
            content = self._contents.get(record.id)
        except MessageStoreError:
            # The message stays scheduled in the database, too.
            self._table.put(replace(record, scheduled_at=now + _RETRY))
            return
        self._table.remove(record.id)
        message = replace(
            content, time_to_live=record.time_to_live, scheduled_at=record.scheduled_at
        )
        self._publish(message, record.enqueue_sequence_number, now)

    def _publish(self, message: IncomingMessage, first_number: int, now: datetime) -> None:
        """Add copies of a message to each subscription with a rule that selects the message."""
        properties = self._message_format.read_properties(message)
        expires_at = self._expiry(message.time_to_live, now)
        is_dropped = True
        for subscription in self.subscriptions:
            copies = subscription.make_copies(message, properties, self._message_format)
            for copy in copies:
                record = subscription.add_copy(copy, first_number, expires_at, now)
                self._contents.add(record.id, copy)
                is_dropped = False
        self.dropped_count += is_dropped


class TopicSubscription(Queue):
    """A subscription of a topic. Its rules select messages that are sent to the topic."""

    @property
    def rules(self) -> tuple[SubscriptionRule, ...]:
        """The rules that select the messages of the subscription."""
        settings = self.settings
        assert isinstance(settings, SubscriptionSettings)
        return settings.rules

    def check_sending(self) -> None:
        """Raise NotAllowed, because messages can be sent only to the topic."""
        raise NotAllowed(
            f"messages cannot be sent to {self.address!r}, which is a subscription: send them to"
            " its topic"
        )

    def find_rule(self, name: str) -> SubscriptionRule:
        """Return the rule with this name. Raises EntityNotFound if the rule does not exist."""
        for rule in self.rules:
            if rule.name.casefold() == name.casefold():
                return rule
        raise EntityNotFound(f"{self.address}/Rules/{name}")

    async def add_rule(self, rule: SubscriptionRule) -> None:
        """Add a rule for later messages. Raises EntityAlreadyExists or ArgumentError."""
        if any(rule.name.casefold() == each.name.casefold() for each in self.rules):
            raise EntityAlreadyExists(f"the rule {rule.name!r} of {self.address!r} already exists")
        self._save_rules((*self.rules, rule))

    async def replace_rule(self, rule: SubscriptionRule) -> None:
        """Replace the rule with the same name. Raises EntityNotFound without one."""
        before = self.find_rule(rule.name)
        self._save_rules(tuple(rule if each is before else each for each in self.rules))

    async def remove_rule(self, name: str) -> None:
        """Remove a rule. Raises EntityNotFound if the rule does not exist."""
        before = self.find_rule(name)
        self._save_rules(tuple(each for each in self.rules if each is not before))

    def _save_rules(self, rules: tuple[SubscriptionRule, ...]) -> None:
        self._begin()
        self._transactions.flush()
        self.save_settings(replace(self.settings, rules=rules))  # type: ignore[call-arg]


class Topic(Queue):
    """A topic of the namespace. Messages are sent to it, and received from its subscriptions."""

    def __init__(
        self,
        address: str,
        state: TopicState,
        dispatcher: Dispatcher,
        transactions: TransactionManager,
    ) -> None:
        super().__init__(address, state, dispatcher, transactions)
        self._topic_state = state
        self._subscriptions: dict[str, TopicSubscription] = {}

    @property
    def is_subqueue(self) -> bool:
        """False, because a topic is not a dead-letter queue."""
        return False

    @property
    def subscriptions(self) -> Sequence[TopicSubscription]:
        """The topic's subscriptions, sorted by name."""
        return [each for _, each in sorted(self._subscriptions.items())]

    @property
    def dropped_count(self) -> int:
        """The number of messages, since the start of the broker, that no subscription received."""
        return self._topic_state.dropped_count

    def check_receiving(self) -> None:
        """Raise NotAllowed, because messages can be received only from subscriptions."""
        raise NotAllowed(
            f"messages cannot be received from {self.address!r}, which is a topic: receive them"
            " from one of its subscriptions"
        )

    # Methods that the broker calls

    def add_subscription(self, subscription: TopicSubscription, state: SubscriptionState) -> None:
        """Add a subscription, whose state is `state`, to the topic."""
        self._subscriptions[subscription.address.casefold()] = subscription
        self._topic_state.subscriptions.append(state)

    def remove_subscription(self, subscription: TopicSubscription, number: int) -> None:
        """Remove a subscription, whose state has the internal number `number`."""
        del self._subscriptions[subscription.address.casefold()]
        states = self._topic_state.subscriptions
        states[:] = [state for state in states if state.number != number]

    def find_last_access(self, now: datetime) -> datetime:
        """Return when the topic or one of its subscriptions was last used."""
        below = (each.find_last_access(now) for each in self._subscriptions.values())
        return max([super().find_last_access(now), *below])

    def _stored_bytes(self) -> int:
        return super()._stored_bytes() + sum(
            subscription._stored_bytes() for subscription in self._subscriptions.values()
        )
