"""AMQP links, which carry messages in one direction (section 2.6 of the specification).

This module contains the interfaces `ConnectionService`, `LinkSource` and `LinkTarget`, the two
classes of links, and the functions that read and build attach performatives.
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
    """The destination of the messages that a peer sends on one link."""

    @property
    def max_message_bytes(self) -> int:
        """The maximum size of a message on this link, in bytes. Larger messages are rejected."""
        ...

    async def put(self, payload: bytes, message_format: int) -> None:
        """Process a delivery durably. Raises MessageFault, or LinkFault to detach the link."""
        ...


@dataclass(frozen=True, slots=True)
class AttachDetails:
    """The filters and properties that a source adds to the reply to an attach performative."""

    filters: dict[Any, Any]
    """The filters of the peer that the source applies."""
    properties: dict[Any, Any]
    """The properties of the link."""


class LinkSource(Protocol):
    """The origin of the messages that a peer receives on one link."""

    @property
    def attach_details(self) -> AttachDetails | None:
        """The details to add to the reply to the peer's attach performative, or None."""
        ...

    @property
    def is_presettled(self) -> bool:
        """Whether each message is settled as soon as the source sends the message."""
        ...

    def set_credit(self, credit: int) -> None:
        """Set the number of messages that the source may still send. 0 stops deliveries."""
        ...

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Settle the delivery that has this tag. `outcome` is the outcome that the peer sent."""
        ...

    def close(self) -> None:
        """Stop deliveries because the link has been detached."""
        ...


class DeliverySender(Protocol):
    """The interface through which a source sends messages to the peer."""

    def send(self, tag: bytes, payload: bytes) -> None:
        """Send a message to the peer. The caller must have credit for the message."""
        ...

    def detach(self, fault: AmqpError) -> None:
        """Detach the link with an error. If the link is closed, do nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """A peer's request to receive messages on a new link."""

    address: str
    reply_address: str | None
    is_presettled: bool
    """Whether the peer wants each message to be settled as soon as the message is sent."""
    filters: dict[Any, Any] = field(default_factory=dict)
    timeout_seconds: float | None = None
    """How long the peer waits for the reply, or None if the peer has not said so."""


class ConnectionService(Protocol):
    """The service that authenticates the peer of one connection and opens the peer's links."""

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Return whether this SASL response permits the peer to connect."""
        ...

    def open_target(self, address: str) -> LinkTarget:
        """Return the target of the peer's messages to this address. Raises LinkFault."""
        ...

    def open_source(
        self, requested: SourceRequest, sender: DeliverySender
    ) -> LinkSource | asyncio.Future[LinkSource]:
        """Return the source for the peer, or a future of it, which the caller may cancel."""
        ...


_CREDIT = 1000
_SERIAL = 1 << 32
_HALF_SERIAL = 1 << 31


def serial_difference(minuend: int, subtrahend: int) -> int:
    """Subtract 32-bit serial numbers, which wrap around (RFC 1982)."""
    return (minuend - subtrahend + _HALF_SERIAL) % _SERIAL - _HALF_SERIAL


class LinkSession(Protocol):
    """The interface through which a link uses its session."""

    @property
    def pending(self) -> PendingWork:
        """The counter of the received bytes that the server has not yet processed."""
        ...

    def send_flow(
        self,
        *,
        handle: UInt,
        delivery_count: UInt,
        link_credit: UInt,
        drain: bool = False,
    ) -> None:
        """Send a link's delivery count and credit to the peer."""
        ...

    def send_disposition(
        self, *, as_receiver: bool, delivery_id: int, state: Described | None
    ) -> None:
        """Settle a delivery that the server received or sent, and send its state."""
        ...

    def send_delivery(self, link: "OutgoingLink", tag: bytes, payload: bytes) -> None:
        """Send a message to the peer on this link. `tag` identifies the delivery."""
        ...

    def detach(self, handle: int, fault: AmqpError | None) -> None:
        """Detach the link that has this handle."""
        ...


class IncomingLink:
    """A link on which the peer sends messages.

    The link also accepts messages without credit, because azure-servicebus sends messages before it
    has received credit. `PendingWork` limits the memory that received messages use.
    """

    def __init__(
        self, session: LinkSession, attach: Attach, target: LinkTarget, address: str
    ) -> None:
        self.handle = attach.handle
        self.name = attach.name
        self.address = address
        self.used_at = _loop_time()
        """When the peer last sent a message, in the time of the event loop."""
        self._session = session
        self._target = target
        self._delivery_count = int(attach.initial_delivery_count or 0)
        self._credit = 0
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._too_large = False

    def on_attached(self) -> None:
        """Grant credit to the peer, after the reply to the attach performative."""
        self._replenish()

    def on_detached(self) -> None:
        """Discard the parts of an incomplete message, because the link has been detached."""
        self._drop_parts()

    def set_blocked(self, _: bool) -> None:
        """Do nothing, because only the deliveries of outgoing links are blocked."""

    def on_flow(self, flow: Flow) -> None:
        """Handle a flow performative. If the peer requests a reply, send this link's flow state."""
        if flow.echo:
            self._send_flow()

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Receive a message or a part of it. Raises SessionFault without a delivery id."""
        first = self._first
        self.used_at = _loop_time()
        if first is None:
            if transfer.delivery_id is None:
                raise SessionFault(
                    "amqp:invalid-field", "the first transfer of a delivery has no delivery-id"
                )
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
                self._refuse_size(first)
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

    def _refuse_size(self, first: Transfer) -> NoReturn:
        raise MessageFault(
            "amqp:link:message-size-exceeded",
            f"The received message (delivery-id:{first.delivery_id}) exceeds the limit "
            f"({self._target.max_message_bytes} bytes) currently allowed on the link.",
        )

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
    """A link on which the peer receives messages. The peer grants credit for the messages."""

    def __init__(self, session: LinkSession, attach: Attach, address: str) -> None:
        self.handle = attach.handle
        self.name = attach.name
        self.address = address
        self.used_at = _loop_time()
        """When the peer last got a message or granted credit, in the time of the event loop."""
        self.attach = attach
        """The peer's attach performative."""
        self.source: LinkSource | None = None
        """The link's source. None until the source is available."""
        self.opening: asyncio.Future[LinkSource] | None = None
        """The future of the source, if the source was not available when the peer attached."""
        self._session = session
        self._delivery_count = 0
        self._credit = 0
        self._blocked = False
        self._closed = False

    @property
    def is_opening(self) -> bool:
        """Whether the server still waits for the source before it replies to the peer's attach."""
        return self.source is None and not self._closed

    @property
    def is_presettled(self) -> bool:
        """Whether each message is settled as soon as it is sent."""
        return self.source is not None and self.source.is_presettled

    def on_attached(self) -> None:
        """Start deliveries if the peer has granted credit, after the reply to the attach."""
        self._grant()

    def on_detached(self) -> None:
        """Close the link's source, or stop waiting for it."""
        self._closed = True
        source = self.source
        if self.opening is not None and source is None and not self.opening.cancel():
            # The source became available in this iteration of the event loop.
            source = None if self.opening.exception() else self.opening.result()
        if source is not None:
            source.close()

    def set_blocked(self, blocked: bool) -> None:
        """Stop deliveries while the session or the transport cannot send."""
        if self._blocked != blocked:
            self._blocked = blocked
            self._grant()

    def on_transfer(self, _: Transfer, __: bytes) -> None:
        """Raise SessionFault, because the peer is the receiver of this link."""
        raise SessionFault(
            "amqp:not-allowed",
            "the peer sent a transfer on a link on which the peer receives messages",
        )

    def on_flow(self, flow: Flow) -> None:
        """Set the credit from the peer's flow performative, and reply if the peer requests a reply.

        Deliveries that the peer had not received yet count against it (section 2.6.7). A drain
        sends the ready messages and then sets the credit to 0.
        """
        self.used_at = _loop_time()
        if flow.link_credit is not None:
            unseen = serial_difference(self._delivery_count, flow.delivery_count or 0)
            self._credit = max(0, flow.link_credit - unseen)
            self._grant()
        if flow.drain:
            # Drain in the next iteration of the event loop, after the source has sent the ready
            # messages.
            asyncio.get_running_loop().call_soon(self._drain)
        elif flow.echo:
            self._send_flow()

    def send(self, tag: bytes, payload: bytes) -> None:
        """Send a message to the peer. If the link is closed, do nothing."""
        if self._closed:
            return
        self.used_at = _loop_time()
        self._delivery_count = (self._delivery_count + 1) % _SERIAL
        self._credit = max(0, self._credit - 1)
        self._session.send_delivery(self, tag, payload)

    def detach(self, fault: AmqpError) -> None:
        """Detach the link with an error. If the link is closed, do nothing."""
        if not self._closed:
            self._session.detach(self.handle, fault)

    def _grant(self) -> None:
        if self.source is not None:
            self.source.set_credit(0 if self._blocked else self._credit)

    def _drain(self) -> None:
        if self._closed or self.source is None:
            return
        self._delivery_count = (self._delivery_count + self._credit) % _SERIAL
        self._credit = 0
        self._grant()
        self._send_flow(drain=True)

    def _send_flow(self, *, drain: bool = False) -> None:
        if self.source is None:
            return  # the server has not replied to the peer's attach performative
        self._session.send_flow(
            handle=self.handle,
            delivery_count=UInt(self._delivery_count),
            link_credit=UInt(self._credit),
            drain=drain,
        )


Link = IncomingLink | OutgoingLink


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


_SOURCE = 0x28
_TARGET = 0x29
_SOURCE_FIELDS = 11
_TARGET_FIELDS = 7
_SOURCE_NAMES = _SOURCE, "amqp:source:list"
_TARGET_NAMES = _TARGET, "amqp:target:list"
_FILTER_FIELD = 7
_SETTLED = UByte(1)
_BATCH_SIZE = Symbol("com.microsoft:max-message-batch-size")
_TIMEOUT = "com.microsoft:timeout"


def read_target_address(attach: Attach) -> str:
    """Return an attach's target address. Raises LinkFault if it is missing or unsupported."""
    if attach.target is None or attach.target.descriptor not in _TARGET_NAMES:
        raise LinkFault(
            "amqp:not-implemented",
            "the target is missing or has an unsupported type: expected amqp:target:list",
        )
    return _address(attach.target)


def read_source_request(attach: Attach) -> SourceRequest:
    """Return the source in an attach. Raises LinkFault if it is missing or unsupported."""
    if attach.source is None or attach.source.descriptor not in _SOURCE_NAMES:
        raise LinkFault(
            "amqp:not-implemented",
            "the source is missing or has an unsupported type: expected amqp:source:list",
        )
    fields = _fields(attach.source)
    filters = fields[_FILTER_FIELD] if len(fields) > _FILTER_FIELD else None
    if not isinstance(filters, dict | None):
        raise DecodeError("the filter of the source must be a map")
    reply_address = None
    if attach.target is not None:
        reply_address = next(iter(_fields(attach.target)), None)
    return SourceRequest(
        address=_address(attach.source),
        reply_address=reply_address if isinstance(reply_address, str) else None,
        is_presettled=attach.snd_settle_mode == _SETTLED,
        filters=filters or {},
        timeout_seconds=_timeout_seconds(attach),
    )


def _timeout_seconds(attach: Attach) -> float | None:
    """Return the timeout in an attach performative, in seconds, or None if there is no timeout."""
    timeout_ms = (attach.properties or {}).get(_TIMEOUT)
    return timeout_ms / 1000 if isinstance(timeout_ms, UInt) else None


def build_attach_reply(
    attach: Attach, max_message_bytes: int | None, details: AttachDetails | None = None
) -> Attach:
    """Build the reply that accepts a peer's attach performative.

    Clients need a source and a target in it, and an initial delivery count from a sender.
    """
    peer_receives = attach.role
    limit = None if max_message_bytes is None else ULong(max_message_bytes)
    properties = dict(details.properties) if details else {}
    if limit is not None:
        properties[_BATCH_SIZE] = limit
    source = _padded(attach.source, _SOURCE, _SOURCE_FIELDS)
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not peer_receives,
        snd_settle_mode=attach.snd_settle_mode,
        rcv_settle_mode=attach.rcv_settle_mode,
        source=_with_filters(source, details.filters if details else None),
        target=_padded(attach.target, _TARGET, _TARGET_FIELDS),
        initial_delivery_count=UInt(0) if peer_receives else None,
        max_message_size=limit,
        properties=properties or None,
    )


def build_attach_refusal(attach: Attach) -> Attach:
    """Build the reply that refuses a link, without source and target (section 2.6.3).

    The caller must then send a detach performative with the error.
    """
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not attach.role,
        initial_delivery_count=UInt(0) if attach.role else None,
    )


def _padded(terminus: Described | None, code: int, count: int) -> Described:
    """Return a source or target with `count` fields; those that the peer omitted are null."""
    if terminus is None:
        return Described(ULong(code), [None] * count)
    fields = _fields(terminus)
    return replace(terminus, value=[*fields, *[None] * (count - len(fields))])


def _with_filters(source: Described, filters: dict[Any, Any] | None) -> Described:
    """Return a source with the filters that the server applies, as its attach must list them."""
    fields = list(source.value)
    fields[_FILTER_FIELD] = filters
    return replace(source, value=fields)


def _address(terminus: Described) -> str:
    address = next(iter(_fields(terminus)), None)
    if not isinstance(address, str):
        raise LinkFault(
            "amqp:not-implemented",
            "the source or target has no address: dynamic nodes are not supported",
        )
    try:
        # Clients send a whole URL as the address of a queue, and only a path for other nodes.
        path = urlsplit(address).path if "://" in address else address
    except ValueError:
        raise LinkFault(
            "amqp:invalid-field",
            f"the address {address[:300]!r} of a source or target is not a valid URL",
        ) from None
    return path.strip("/")


def _fields(terminus: Described) -> list[Any]:
    if not isinstance(terminus.value, list):
        raise DecodeError("the source or target must be encoded as a list")
    return terminus.value
