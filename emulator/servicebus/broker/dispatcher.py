"""Hands the ready messages of one queue to its receivers, in turn."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from emulator.servicebus.broker.entry import Entry
from emulator.servicebus.broker.message import Delivery, ReceiveMode
from emulator.servicebus.broker.state import QueueState
from emulator.servicebus.broker.subscription import Subscription


@dataclass(frozen=True, slots=True)
class Handout:
    """A message for a receiver, to be delivered once the fact is durable."""

    subscription: Subscription
    entry: Entry


class Dispatcher:
    """Serves the receivers that have credit one message each, round and round."""

    def __init__(self, state: QueueState, on_demand: Callable[[], None]) -> None:
        self._state = state
        self._on_demand = on_demand
        self._willing: OrderedDict[Subscription, None] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Whether there is both a message to hand out and a receiver for it."""
        return bool(self._willing) and len(self._state.shelf.ready) > 0

    def subscribe(self, mode: ReceiveMode, deliver: Callable[[Delivery], None]) -> Subscription:
        """Return a new receiver, which has no credit yet."""
        return Subscription(self, mode, deliver)

    def demand_changed(self, subscription: Subscription) -> None:
        """Take note of a receiver's new credit."""
        if not subscription.credit:
            self._willing.pop(subscription, None)
            return
        self._willing[subscription] = None
        self._on_demand()

    def close(self) -> None:
        """Let all receivers go: the queue is deleted."""
        for subscription in list(self._willing):
            subscription.close()

    def hand_out(self, now: datetime, budget_bytes: int, handouts: list[Handout]) -> None:
        """Lock or remove messages for receivers with credit, and add them to the list.

        Ends when there is no message, no credit, or when the bytes are spent.
        """
        while self._willing and budget_bytes > 0:
            subscription = next(iter(self._willing))
            entry = self._state.take(subscription.mode, now)
            if entry is None:
                return
            subscription.spend()
            if subscription.credit:
                self._willing.move_to_end(subscription)
            else:
                del self._willing[subscription]
            handouts.append(Handout(subscription, entry))
            budget_bytes -= entry.size_bytes
