"""Links: one direction of messages between a peer and a node, with credit."""

import asyncio
from typing import NoReturn, Protocol

from emulator.servicebus.amqp.node import Sink, Source
from emulator.servicebus.amqp.outcomes import ACCEPTED, rejection
from emulator.servicebus.amqp.performatives import Attach, Flow, Transfer
from emulator.servicebus.amqp.types import Described, UInt
from emulator.servicebus.amqp.work import Work
from emulator.servicebus.errors import AmqpError, LinkFault, MessageFault, SessionFault

_CREDIT = 1000
_SERIAL = 1 << 32
_HALF_SERIAL = 1 << 31


def serial_difference(minuend: int, subtrahend: int) -> int:
    """Subtract sequence numbers of 32 bits that wrap round (RFC 1982)."""
    return (minuend - subtrahend + _HALF_SERIAL) % _SERIAL - _HALF_SERIAL


class Carrier(Protocol):
    """The session, to its links."""

    @property
    def work(self) -> Work:
        """What is under way for the peer."""
        ...

    def send_flow(
        self,
        *,
        handle: UInt,
        delivery_count: UInt,
        link_credit: UInt,
        drain: bool = False,
    ) -> None:
        """Tell the peer the state of a link."""
        ...

    def send_disposition(
        self, *, as_receiver: bool, delivery_id: int, state: Described | None
    ) -> None:
        """Tell the peer that a delivery is settled."""
        ...

    def send_delivery(self, link: "OutgoingLink", tag: bytes, payload: bytes) -> None:
        """Send a message."""
        ...

    def detach(self, handle: int, fault: AmqpError | None) -> None:
        """Detach a link on our side."""
        ...


class IncomingLink:
    """Takes messages from a peer.

    Credit keeps a well-behaved peer from running ahead. It is not enforced, since Microsoft's
    clients start before they hear of it; the connection bounds what is held instead.
    """

    def __init__(self, session: Carrier, attach: Attach, sink: Sink) -> None:
        self.handle = attach.handle
        self._session = session
        self._sink = sink
        self._delivery_count = int(attach.initial_delivery_count or 0)
        self._credit = 0
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._too_large = False

    def opened(self) -> None:
        """Start, the peer having been told that the link is attached."""
        self._replenish()

    def closed(self) -> None:
        """Forget what was only partly received."""
        self._drop_parts()

    def set_blocked(self, _: bool) -> None:
        """Take note that nothing can be sent, which does not matter here."""

    def on_flow(self, flow: Flow) -> None:
        """Answer a peer that asks for the state of the link."""
        if flow.echo:
            self._send_flow()

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Take a message or a part of it; raises SessionFault for one that has no beginning."""
        first = self._first
        if first is None:
            if transfer.delivery_id is None:
                raise SessionFault("amqp:invalid-field", "a delivery has no id")
            self._first = first = transfer
        if transfer.aborted:
            self._drop_parts()
            self._count_delivery()
            return
        self._hold(payload)
        if transfer.more:
            return
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        too_large, held_bytes = self._too_large, self._held_bytes
        self._first, self._parts, self._held_bytes, self._too_large = None, [], 0, False
        self._count_delivery()
        self._session.work.begin(held_bytes)
        self._session.work.spawn(
            self._take(first, transfer.settled or first.settled, whole, too_large, held_bytes)
        )

    async def _take(
        self, first: Transfer, settled: bool, payload: bytes, too_large: bool, held_bytes: int
    ) -> None:
        state: Described = ACCEPTED
        try:
            if too_large:
                self._refuse_size()
            await self._sink.put(payload, first.message_format or 0)
        except MessageFault as fault:
            state = rejection(fault)
        except LinkFault as fault:
            self._session.detach(self.handle, fault)
            return
        finally:
            self._session.work.end(held_bytes)
        if not settled and first.delivery_id is not None:
            self._session.send_disposition(
                as_receiver=True, delivery_id=first.delivery_id, state=state
            )

    def _refuse_size(self) -> NoReturn:
        limit = self._sink.max_message_bytes
        raise MessageFault("amqp:link:message-size-exceeded", f"the message is over {limit} bytes")

    def _hold(self, payload: bytes) -> None:
        if self._too_large:
            return
        self._parts.append(payload)
        self._held_bytes += len(payload)
        self._session.work.hold(len(payload))
        if self._held_bytes > self._sink.max_message_bytes:
            self._drop_payload()
            self._too_large = True

    def _drop_payload(self) -> None:
        self._session.work.hold(-self._held_bytes)
        self._parts, self._held_bytes = [], 0

    def _drop_parts(self) -> None:
        self._drop_payload()
        self._first, self._too_large = None, False

    def _count_delivery(self) -> None:
        self._delivery_count = (self._delivery_count + 1) % _SERIAL
        self._credit -= 1
        if self._credit <= _CREDIT // 2:
            self._replenish()

    def _replenish(self) -> None:
        self._credit = _CREDIT
        self._send_flow()

    def _send_flow(self) -> None:
        self._session.send_flow(
            handle=self.handle,
            delivery_count=UInt(self._delivery_count),
            link_credit=UInt(max(0, self._credit)),
        )


class OutgoingLink:
    """Gives messages to a peer, as many as it has asked for."""

    def __init__(self, session: Carrier, attach: Attach) -> None:
        self.handle = attach.handle
        self.source: Source
        self._session = session
        self._delivery_count = 0
        self._credit = 0
        self._blocked = False
        self._closed = False

    def opened(self) -> None:
        """Start, the peer having been told that the link is attached."""

    def closed(self) -> None:
        """Send no more."""
        self._closed = True
        self.source.close()

    def set_blocked(self, blocked: bool) -> None:
        """Hold the source back while the session or the connection has no room."""
        if self._blocked != blocked:
            self._blocked = blocked
            self._grant()

    def on_transfer(self, _: Transfer, __: bytes) -> None:
        """Refuse a message in the wrong direction."""
        raise SessionFault("amqp:not-allowed", "a transfer on a link that only gives messages")

    def on_flow(self, flow: Flow) -> None:
        """Take the peer's credit, which counts from the deliveries that it had seen by then."""
        if flow.link_credit is not None:
            unseen = serial_difference(self._delivery_count, flow.delivery_count or 0)
            self._credit = max(0, flow.link_credit - unseen)
            self._grant()
        if flow.drain:
            # After the turn in which the source sends what it has at once.
            asyncio.get_running_loop().call_soon(self._drain)
        elif flow.echo:
            self._send_flow()

    def send(self, tag: bytes, payload: bytes) -> None:
        """Send a message."""
        if self._closed:
            return
        self._delivery_count = (self._delivery_count + 1) % _SERIAL
        self._credit = max(0, self._credit - 1)
        self._session.send_delivery(self, tag, payload)

    def _grant(self) -> None:
        self.source.set_credit(0 if self._blocked else self._credit)

    def _drain(self) -> None:
        if self._closed:
            return
        self._delivery_count = (self._delivery_count + self._credit) % _SERIAL
        self._credit = 0
        self._grant()
        self._send_flow(drain=True)

    def _send_flow(self, *, drain: bool = False) -> None:
        self._session.send_flow(
            handle=self.handle,
            delivery_count=UInt(self._delivery_count),
            link_credit=UInt(self._credit),
            drain=drain,
        )


Link = IncomingLink | OutgoingLink
