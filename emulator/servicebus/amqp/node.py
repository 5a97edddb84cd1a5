"""What the protocol expects of the service behind it.

The protocol knows links, credit and deliveries; the service knows what an address stands for.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from emulator.servicebus.amqp.outcomes import Outcome


class Sink(Protocol):
    """Takes the messages that a peer sends on one link."""

    @property
    def max_message_bytes(self) -> int:
        """The size over which a message is refused unseen."""
        ...

    async def put(self, payload: bytes, message_format: int) -> None:
        """Take a message; returns when it is safe. Raises MessageFault to refuse it."""
        ...


class Source(Protocol):
    """Gives the messages that a peer receives on one link."""

    @property
    def presettled(self) -> bool:
        """Whether messages are done with as soon as they are sent."""
        ...

    def set_credit(self, credit: int) -> None:
        """Send up to this many messages, now and as they come; 0 means none."""
        ...

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Apply an outcome to what was sent under a tag; raises MessageFault when it cannot be."""
        ...

    def close(self) -> None:
        """Send no more: the link is gone."""
        ...


class Outlet(Protocol):
    """The link itself, to a source."""

    def send(self, tag: bytes, payload: bytes) -> None:
        """Send a message; the source must have credit for it."""
        ...


@dataclass(frozen=True, slots=True)
class SourceTerms:
    """What a peer asks for when it attaches to receive."""

    address: str
    reply_address: str | None
    presettled: bool
    """Whether the peer wants messages that are done with as soon as they are sent."""
    filters: dict[Any, Any] = field(default_factory=dict)


class Peer(Protocol):
    """The service, as one connection sees it."""

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Decide whether a SASL response lets the peer in."""
        ...

    def sink(self, address: str) -> Sink:
        """Return what takes the messages for an address; raises LinkFault."""
        ...

    def source(self, terms: SourceTerms, outlet: Outlet) -> Source:
        """Return what gives the messages of an address; raises LinkFault."""
        ...
