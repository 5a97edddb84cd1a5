"""Give the ready messages of one queue to its receivers with credit."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from emulator.servicebus.broker.message import MessageDelivery, MessageRecord, ReceiveMode
from emulator.servicebus.broker.queue_state import QueueState


class CreditListener(Protocol):
    """The queue's side of a subscription."""

    def credit_changed(self, subscription: "Subscription") -> None:
        """Note a receiver's new credit."""
        ...


class Subscription:
    """A receiver of a queue. `deliver` is called on the event loop, never after `close`."""

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
        """The number of messages that may still be delivered."""
        return self._credit

    def set_credit(self, credit: int) -> None:
        """Set the number of messages that may be delivered; 0 stops deliveries."""
        self._credit = 0 if self._closed else max(0, credit)
        self._listener.credit_changed(self)

    def close(self) -> None:
        """Stop deliveries. Delivered messages stay locked until settled or expired."""
        self._closed = True
        self.set_credit(0)

    def spend(self) -> None:
        """Use one credit."""
        self._credit -= 1

    def refund(self) -> None:
        """Return one credit of a delivery that failed."""
        self.set_credit(self._credit + 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message for a receiver, which is delivered after the commit."""

    subscription: Subscription
    record: MessageRecord


class Dispatcher:
    """Gives one message at a time to each receiver with credit, in turn."""

    def __init__(self, state: QueueState, on_credit: Callable[[], None]) -> None:
        self._state = state
        self._on_credit = on_credit
        self._with_credit: OrderedDict[Subscription, None] = OrderedDict()

    @property
    def has_work(self) -> bool:
        """Whether there are both a ready message and a receiver with credit."""
        return bool(self._with_credit) and len(self._state.index.ready) > 0

    def subscribe(
        self, mode: ReceiveMode, deliver: Callable[[MessageDelivery], None]
    ) -> Subscription:
        """Return a new receiver without credit."""
        return Subscription(self, mode, deliver)

    def credit_changed(self, subscription: Subscription) -> None:
        """Note a receiver's new credit."""
        if not subscription.credit:
            self._with_credit.pop(subscription, None)
            return
        self._with_credit[subscription] = None
        self._on_credit()

    def close(self) -> None:
        """Close all receivers because the queue is deleted."""
        for subscription in list(self._with_credit):
            subscription.close()

    def assign(self, now: datetime, budget_bytes: int, assignments: list[Assignment]) -> None:
        """Lock or remove messages for receivers with credit, and append them to `assignments`.

        Stops when messages, credit or `budget_bytes` run out.
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
