"""What the protocol expects of the service behind it.

The protocol knows links, credit and deliveries; the service knows what an address stands for.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from emulator.servicebus.amqp.errors import (
    AmqpError,
    DecodeError,
    LinkFault,
    MessageFault,
    SessionFault,
)
from emulator.servicebus.amqp.outcomes import ACCEPTED, Outcome, build_rejection
from emulator.servicebus.amqp.performatives import Attach, Flow, Transfer
from emulator.servicebus.amqp.transport import PendingWork
from emulator.servicebus.amqp.types import Described, Symbol, UByte, UInt, ULong


class LinkTarget(Protocol):
    """Takes the messages that a peer sends on one link."""

    @property
    def max_message_bytes(self) -> int:
        """The size over which a message is refused unseen."""
        ...

    async def put(self, payload: bytes, message_format: int) -> None:
        """Take a message; returns when it is safe. Raises MessageFault to refuse it."""
        ...


class LinkSource(Protocol):
    """Gives the messages that a peer receives on one link."""

    @property
    def is_presettled(self) -> bool:
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


class DeliverySender(Protocol):
    """The link itself, to a source."""

    def send(self, tag: bytes, payload: bytes) -> None:
        """Send a message; the source must have credit for it."""
        ...


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """What a peer asks for when it attaches to receive."""

    address: str
    reply_address: str | None
    is_presettled: bool
    """Whether the peer wants messages that are done with as soon as they are sent."""
    filters: dict[Any, Any] = field(default_factory=dict)


class ConnectionService(Protocol):
    """The service, as one connection sees it."""

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Decide whether a SASL response lets the peer in."""
        ...

    def open_target(self, address: str) -> LinkTarget:
        """Return what takes the messages for an address; raises LinkFault."""
        ...

    def open_source(self, requested: SourceRequest, sender: DeliverySender) -> LinkSource:
        """Return what gives the messages of an address; raises LinkFault."""
        ...


_CREDIT = 1000
_SERIAL = 1 << 32
_HALF_SERIAL = 1 << 31


def serial_difference(minuend: int, subtrahend: int) -> int:
    """Subtract sequence numbers of 32 bits that wrap round (RFC 1982)."""
    return (minuend - subtrahend + _HALF_SERIAL) % _SERIAL - _HALF_SERIAL


class LinkSession(Protocol):
    """The session, to its links."""

    @property
    def pending(self) -> PendingWork:
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

    def __init__(self, session: LinkSession, attach: Attach, target: LinkTarget) -> None:
        self.handle = attach.handle
        self._session = session
        self._target = target
        self._delivery_count = int(attach.initial_delivery_count or 0)
        self._credit = 0
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._too_large = False

    def on_attached(self) -> None:
        """Start, the peer having been told that the link is attached."""
        self._replenish()

    def on_detached(self) -> None:
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
        self._session.pending.begin_delivery(held_bytes)
        self._session.pending.spawn(
            self._take(first, transfer.settled or first.settled, whole, too_large, held_bytes)
        )

    async def _take(
        self, first: Transfer, settled: bool, payload: bytes, too_large: bool, held_bytes: int
    ) -> None:
        state: Described = ACCEPTED
        try:
            if too_large:
                self._refuse_size()
            await self._target.put(payload, first.message_format or 0)
        except MessageFault as fault:
            state = build_rejection(fault)
        except LinkFault as fault:
            self._session.detach(self.handle, fault)
            return
        finally:
            self._session.pending.end_delivery(held_bytes)
        if not settled and first.delivery_id is not None:
            self._session.send_disposition(
                as_receiver=True, delivery_id=first.delivery_id, state=state
            )

    def _refuse_size(self) -> NoReturn:
        limit = self._target.max_message_bytes
        raise MessageFault("amqp:link:message-size-exceeded", f"the message is over {limit} bytes")

    def _hold(self, payload: bytes) -> None:
        if self._too_large:
            return
        self._parts.append(payload)
        self._held_bytes += len(payload)
        self._session.pending.add_partial(len(payload))
        if self._held_bytes > self._target.max_message_bytes:
            self._drop_payload()
            self._too_large = True

    def _drop_payload(self) -> None:
        self._session.pending.add_partial(-self._held_bytes)
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

    def __init__(self, session: LinkSession, attach: Attach) -> None:
        self.handle = attach.handle
        self.source: LinkSource
        self._session = session
        self._delivery_count = 0
        self._credit = 0
        self._blocked = False
        self._closed = False

    def on_attached(self) -> None:
        """Start, the peer having been told that the link is attached."""

    def on_detached(self) -> None:
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


_SOURCE = 0x28
_TARGET = 0x29
_SOURCE_NAMES = _SOURCE, "amqp:source:list"
_TARGET_NAMES = _TARGET, "amqp:target:list"
_FILTER_FIELD = 7
_SETTLED = UByte(1)
_BATCH_SIZE = Symbol("com.microsoft:max-message-batch-size")


def read_target_address(attach: Attach) -> str:
    """Return the address that a sending peer wants to reach; raises LinkFault."""
    if attach.target is None or attach.target.descriptor not in _TARGET_NAMES:
        raise LinkFault("amqp:not-implemented", "only plain targets are supported")
    return _address(attach.target)


def read_source_request(attach: Attach) -> SourceRequest:
    """Return what a receiving peer asks for; raises LinkFault."""
    if attach.source is None or attach.source.descriptor not in _SOURCE_NAMES:
        raise LinkFault("amqp:not-implemented", "only plain sources are supported")
    fields = _fields(attach.source)
    filters = fields[_FILTER_FIELD] if len(fields) > _FILTER_FIELD else None
    if not isinstance(filters, dict | None):
        raise DecodeError("the filter of a source is not a map")
    reply_address = None
    if attach.target is not None:
        reply_address = next(iter(_fields(attach.target)), None)
    return SourceRequest(
        address=_address(attach.source),
        reply_address=reply_address if isinstance(reply_address, str) else None,
        is_presettled=attach.snd_settle_mode == _SETTLED,
        filters=filters or {},
    )


def build_attach_reply(attach: Attach, max_message_bytes: int | None) -> Attach:
    """Build the answer to an attach. Clients need a source and a target, and a first count."""
    peer_receives = attach.role
    limit = None if max_message_bytes is None else ULong(max_message_bytes)
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not peer_receives,
        snd_settle_mode=attach.snd_settle_mode,
        rcv_settle_mode=attach.rcv_settle_mode,
        source=_without_filters(attach.source) or Described(ULong(_SOURCE), []),
        target=attach.target or Described(ULong(_TARGET), []),
        initial_delivery_count=UInt(0) if peer_receives else None,
        max_message_size=limit,
        properties=None if limit is None else {_BATCH_SIZE: limit},
    )


def build_attach_refusal(attach: Attach) -> Attach:
    """Build the answer to an attach that fails: nothing at the other end. A detach follows."""
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not attach.role,
        initial_delivery_count=UInt(0) if attach.role else None,
    )


def _without_filters(source: Described | None) -> Described | None:
    """Leave out the filters: what is echoed would be what is applied, and none is."""
    if source is None or len(source.value) <= _FILTER_FIELD:
        return source
    fields = list(source.value)
    fields[_FILTER_FIELD] = None
    return replace(source, value=fields)


def _address(terminus: Described) -> str:
    address = next(iter(_fields(terminus)), None)
    if not isinstance(address, str):
        raise LinkFault("amqp:not-implemented", "dynamic nodes are not supported")
    try:
        # Clients write a whole URL for entities, and the bare path for the rest.
        path = urlsplit(address).path if "://" in address else address
    except ValueError:
        raise LinkFault("amqp:invalid-field", "the address is not a URL") from None
    return path.strip("/")


def _fields(terminus: Described) -> list[Any]:
    if not isinstance(terminus.value, list):
        raise DecodeError("a source or target is not a list")
    return terminus.value
