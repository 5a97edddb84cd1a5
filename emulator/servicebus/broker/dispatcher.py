"""Assign the ready messages of one queue to those of its receivers that have credit."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from emulator.servicebus.broker.message import MessageDelivery, MessageRecord, ReceiveMode
from emulator.servicebus.broker.queue_state import QueueState


class CreditListener(Protocol):
    """An object that a subscription informs when its credit changes."""

    def credit_changed(self, subscription: "Subscription") -> None:
        """Handle the change of a receiver's credit."""
        ...


class Subscription:
    """One receiver of a queue. `deliver` is called on the event loop, and never after `close`."""

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
        """Set the number of messages that may still be delivered. 0 stops deliveries."""
        self._credit = 0 if self._closed else max(0, credit)
        self._listener.credit_changed(self)

    def close(self) -> None:
        """Stop deliveries.

        Delivered messages stay locked until they are settled or their locks expire.
        """
        self._closed = True
        self.set_credit(0)

    def spend(self) -> None:
        """Reduce the credit by one, because a message is assigned to this receiver."""
        self._credit -= 1

    def refund(self) -> None:
        """Increase the credit by one, because a delivery to this receiver failed."""
        self.set_credit(self._credit + 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message, and the receiver to which it is delivered after the commit."""

    subscription: Subscription
    record: MessageRecord


class Dispatcher:
    """Assigns messages to the receivers that have credit, one message to each receiver in turn."""

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
        """Add a receiver, which has no credit yet, and return its subscription."""
        return Subscription(self, mode, deliver)

    def credit_changed(self, subscription: Subscription) -> None:
        """Start or stop deliveries to a receiver after its credit has changed."""
        if not subscription.credit:
            self._with_credit.pop(subscription, None)
            return
        self._with_credit[subscription] = None
        self._on_credit()

    def close(self) -> None:
        """Close all receivers, because the queue has been deleted."""
        for subscription in list(self._with_credit):
            subscription.close()

    def assign(self, now: datetime, budget_bytes: int, assignments: list[Assignment]) -> None:
        """Assign ready messages to receivers, and append each assignment to `assignments`.

        Each assigned message is locked, or removed in receive-and-delete mode. Stops when no
        message is ready, no receiver has credit, or the messages' total size reaches
        `budget_bytes`.
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
