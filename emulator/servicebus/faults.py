"""Simulate faults of Azure Service Bus, so that a test can check how an app reacts.

The faults are a slow network, throttling, and links that the service detaches because they are
idle or because of maintenance. `PUT /$emulator/faults` and `POST /$emulator/detach` of the
management API switch the faults on and off. All faults are off when the emulator starts.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from emulator.clock import UtcClock
from emulator.servicebus.amqp.errors import LinkFault, MessageFault
from emulator.servicebus.amqp.transport import Latency
from emulator.servicebus.tracking import HOST, add_tracking

_BUSY = "com.microsoft:server-busy"
_BUSY_STATUS_CODE = 503


@dataclass
class NamespaceFaults:
    """The current state of all faults of one namespace."""

    clock: UtcClock
    latency: Latency = field(default_factory=Latency)
    idle_link_seconds: float | None = None
    """After this time without a message or credit, a link is detached. None means never."""
    throttled_share: float = 0.0
    """The share of the requests that is throttled, from 0 (none) to 1 (all)."""
    throttled_queue: str | None = None
    """The name of the only queue whose requests are throttled. None means all queues."""
    throttled_until: datetime | None = None
    """The time at which throttling ends. None means that throttling does not end by itself."""
    _owed: float = 0.0

    def throttle(self, share: float, seconds: float | None, queue: str | None = None) -> None:
        """Throttle a share (0 to 1) of the requests, of one queue or all, for a time or always."""
        self.throttled_share = share
        self.throttled_queue = queue
        end = None if seconds is None else self.clock.now() + timedelta(seconds=seconds)
        self.throttled_until = end
        self._owed = 0.0

    def check_message(self, entity: str) -> None:
        """Raise MessageFault if this send or management request must be throttled."""
        if self._is_next_throttled(entity):
            raise MessageFault(_BUSY, self._busy_text(entity), _BUSY_STATUS_CODE)

    def check_link(self, entity: str) -> None:
        """Raise LinkFault if this attach of a link must be throttled."""
        if self._is_next_throttled(entity):
            raise LinkFault(_BUSY, self._busy_text(entity))

    def _is_next_throttled(self, entity: str) -> bool:
        if not self.throttled_share:
            return False
        queue = self.throttled_queue
        if queue is not None and not f"{entity}/".casefold().startswith(f"{queue}/".casefold()):
            return False
        if self.throttled_until is not None and self.clock.now() >= self.throttled_until:
            self.throttled_share = 0.0
            return False
        # Spread the throttled requests evenly, so that a test always sees the same ones.
        self._owed += self.throttled_share
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    def _busy_text(self, entity: str) -> str:
        """Return Azure's error text: code 50009 for the whole namespace, 50002 for one queue."""
        if self.throttled_queue is None:
            text = f"the namespace {HOST} is being throttled. Error code: 50009. Please wait 2"
        else:
            text = "the entity is being throttled. Error code: 50002. Please wait 4"
        return add_tracking(
            f"The request was terminated because {text} seconds and try again.", entity
        )
