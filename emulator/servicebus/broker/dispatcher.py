"""Assign the ready messages of a queue to the receivers that have credit."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from emulator.servicebus.broker.message import MessageDelivery, MessageRecord, ReceiveMode
from emulator.servicebus.broker.queue_state import QueueState


class CreditListener(Protocol):
    """The interface of an object whose method is called when a receiver's credit changes.

    The credit is the number of messages that may still be delivered to the receiver.
    """

    def credit_changed(self, subscription: "Subscription") -> None:
        """Start or stop deliveries to a receiver after its credit has changed."""
        ...


class Subscription:
    """One receiver of a queue, and its credit. It is not a subscription to a Service Bus topic."""

    __slots__ = ("_closed", "_credit", "_listener", "deliver", "mode")

    def __init__(
        self,
        listener: CreditListener,
        mode: ReceiveMode,
        deliver: Callable[[MessageDelivery], None],
    ) -> None:
        self._listener = listener
        self._credit = 0
        self._closed = False
        self.mode = mode
        self.deliver = deliver

    @property
    def credit(self) -> int:
        """The number of messages that may still be delivered to this receiver."""
        return self._credit

    def set_credit(self, credit: int) -> None:
        """Set the number of messages that may still be delivered to this receiver.

        0 stops deliveries.
        """
        self._credit = 0 if self._closed else max(0, credit)
        self._listener.credit_changed(self)

    def close(self) -> None:
        """Stop deliveries to this receiver.

        Messages that were already delivered stay locked until they are settled or their locks
        expire.
        """
        self._closed = True
        self.set_credit(0)

    def spend(self) -> None:
        """Reduce the credit by one, because a message is assigned to this receiver."""
        self._credit -= 1

    def refund(self) -> None:
        """Increase the credit by one, because an assigned message could not be delivered."""
        self.set_credit(self._credit + 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message, and the receiver that gets it when the broker's transaction is committed."""

    subscription: Subscription
    record: MessageRecord


class Dispatcher:
    """Assigns the messages of one queue in round-robin order to the receivers that have credit."""

    def __init__(self, state: QueueState, on_credit: Callable[[], None]) -> None:
        self._state = state
        self._on_credit = on_credit
        self._with_credit: OrderedDict[Subscription, None] = OrderedDict()

    @property
    def has_work(self) -> bool:
        """Whether at least one message is ready and at least one receiver has credit."""
        return bool(self._with_credit) and len(self._state.index.ready) > 0

    def subscribe(
        self, mode: ReceiveMode, deliver: Callable[[MessageDelivery], None]
    ) -> Subscription:
        """Return a subscription for a new receiver. The subscription has no credit at first.

        The broker calls `deliver` for each message that is delivered to the receiver.
        """
        return Subscription(self, mode, deliver)

    def credit_changed(self, subscription: Subscription) -> None:
        """Start or stop deliveries to a receiver after its credit has changed."""
        if not subscription.credit:
            self._with_credit.pop(subscription, None)
            return
        self._with_credit[subscription] = None
        self._on_credit()

    def close(self) -> None:
        """Stop all deliveries, because the queue has been deleted.

        Only receivers with credit are closed. Receivers without credit get no messages anyway.
        """
        for subscription in list(self._with_credit):
            subscription.close()

    def assign(self, now: datetime, budget_bytes: int, assignments: list[Assignment]) -> None:
        """Assign ready messages to receivers, and append each assignment to `assignments`.

        A message is locked if its receiver uses peek-lock mode. The message is removed if its
        receiver uses receive-and-delete mode. Stop when no message is ready, when no receiver has
        credit, or when the total size of the assigned messages is at least `budget_bytes`.
        """
        while self._with_credit and budget_bytes > 0:
            subscription = next(iter(self._with_credit))
            record = self._state.take(subscription.mode, now)
            if record is None:
                return
            subscription.spend()
            if subscription.credit:
                self._with_credit.move_to_end(subscription)
            else:
                del self._with_credit[subscription]
            assignments.append(Assignment(subscription, record))
            budget_bytes -= record.size_bytes
