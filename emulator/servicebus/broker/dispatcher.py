"""One receiver of a queue, and how many more messages it is willing to take."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from emulator.servicebus.broker.message import Delivery, MessageRecord, ReceiveMode
from emulator.servicebus.broker.queue_state import QueueState


class CreditListener(Protocol):
    """The queue's side, which is told of every change in what its receivers want."""

    def credit_changed(self, subscription: "Subscription") -> None:
        """Take note of a new credit."""
        ...


class Subscription:
    """A receiver's standing order. ``deliver`` is called on the loop, never after ``close``."""

    __slots__ = ("_closed", "_credit", "_listener", "deliver", "mode")

    def __init__(
        self, listener: CreditListener, mode: ReceiveMode, deliver: Callable[[Delivery], None]
    ) -> None:
        self._listener = listener
        self._credit = 0
        self._closed = False
        self.mode = mode
        self.deliver = deliver

    @property
    def credit(self) -> int:
        """How many more messages may be delivered."""
        return self._credit

    def set_credit(self, credit: int) -> None:
        """Say how many more messages may be delivered; 0 holds the queue back."""
        self._credit = 0 if self._closed else max(0, credit)
        self._listener.credit_changed(self)

    def close(self) -> None:
        """Take no more. What was delivered stays locked until it is settled or expires."""
        self._closed = True
        self.set_credit(0)

    def spend(self) -> None:
        """Take note that a message is on its way."""
        self._credit -= 1

    def refund(self) -> None:
        """Take note that a message could not be delivered after all."""
        self.set_credit(self._credit + 1)


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message for a receiver, to be delivered once the fact is durable."""

    subscription: Subscription
    record: MessageRecord


class Dispatcher:
    """Serves the receivers that have credit one message each, round and round."""

    def __init__(self, state: QueueState, on_credit: Callable[[], None]) -> None:
        self._state = state
        self._on_credit = on_credit
        self._with_credit: OrderedDict[Subscription, None] = OrderedDict()

    @property
    def has_work(self) -> bool:
        """Whether there is both a message to hand out and a receiver for it."""
        return bool(self._with_credit) and len(self._state.index.ready) > 0

    def subscribe(self, mode: ReceiveMode, deliver: Callable[[Delivery], None]) -> Subscription:
        """Return a new receiver, which has no credit yet."""
        return Subscription(self, mode, deliver)

    def credit_changed(self, subscription: Subscription) -> None:
        """Take note of a receiver's new credit."""
        if not subscription.credit:
            self._with_credit.pop(subscription, None)
            return
        self._with_credit[subscription] = None
        self._on_credit()

    def close(self) -> None:
        """Let all receivers go: the queue is deleted."""
        for subscription in list(self._with_credit):
            subscription.close()

    def assign(self, now: datetime, budget_bytes: int, assignments: list[Assignment]) -> None:
        """Lock or remove messages for receivers with credit, and add them to the list.

        Ends when there is no message, no credit, or when the bytes are spent.
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
