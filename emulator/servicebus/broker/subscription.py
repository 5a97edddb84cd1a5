"""One receiver of a queue, and how many more messages it is willing to take."""

from collections.abc import Callable
from typing import Protocol

from emulator.servicebus.broker.message import Delivery, ReceiveMode


class Demand(Protocol):
    """The queue's side, which is told of every change in what its receivers want."""

    def demand_changed(self, subscription: "Subscription") -> None:
        """Take note of a new credit."""
        ...


class Subscription:
    """A receiver's standing order. ``deliver`` is called on the loop, never after ``close``."""

    __slots__ = ("_closed", "_credit", "_demand", "deliver", "mode")

    def __init__(
        self, demand: Demand, mode: ReceiveMode, deliver: Callable[[Delivery], None]
    ) -> None:
        self._demand = demand
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
        self._demand.demand_changed(self)

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
