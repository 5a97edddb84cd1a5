"""One receiver of a queue, and how many more messages it is willing to take."""

from collections.abc import Callable
from typing import Protocol

from emulator.servicebus.broker.message import Delivery, ReceiveMode


class _Demand(Protocol):
    """The queue's side: it is told of every change in what its receivers want."""

    def demand_changed(self) -> None: ...

    def unsubscribe(self, subscription: "Subscription") -> None: ...


class Subscription:
    """A receiver's standing order. ``deliver`` is called on the loop, never after ``close``."""

    __slots__ = ("_credit", "_deliver", "_queue", "mode")

    def __init__(
        self, queue: _Demand, mode: ReceiveMode, deliver: Callable[[Delivery], None]
    ) -> None:
        self._queue = queue
        self._deliver = deliver
        self._credit = 0
        self.mode = mode

    @property
    def credit(self) -> int:
        """How many more messages may be delivered."""
        return self._credit

    def set_credit(self, credit: int) -> None:
        """Say how many more messages may be delivered; 0 holds the queue back."""
        self._credit = max(0, credit)
        if self._credit:
            self._queue.demand_changed()

    def close(self) -> None:
        """Take no more. What was delivered stays locked until it is settled or expires."""
        self._credit = 0
        self._queue.unsubscribe(self)

    def spend(self) -> None:
        """Take note that one message is on its way."""
        self._credit -= 1

    def refund(self) -> None:
        """Take note that the message could not be delivered after all."""
        self._credit += 1

    def deliver(self, delivery: Delivery) -> None:
        """Hand a message to the receiver."""
        self._deliver(delivery)
