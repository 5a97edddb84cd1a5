"""Serve AMQP sessions: transfer windows, link handles and dispositions.

Section 2.5 of the AMQP specification defines these sessions. The message sessions of Service Bus
are a different concept; they are in `accepted_sessions.py`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from emulator.servicebus.amqp.codec import encode_binary, encode_uint, wrap_compound
from emulator.servicebus.amqp.errors import (
    AmqpError,
    ConnectionFault,
    FramingError,
    LinkFault,
    MessageFault,
    SessionFault,
)
from emulator.servicebus.amqp.frames import HEADER_BYTES
from emulator.servicebus.amqp.link import (
    ConnectionService,
    IncomingLink,
    Link,
    LinkSource,
    OutgoingLink,
    build_attach_refusal,
    build_attach_reply,
    read_source_request,
    read_target_address,
    serial_difference,
)
from emulator.servicebus.amqp.outcomes import (
    Outcome,
    Released,
    build_confirmation,
    build_rejection,
    read_outcome,
)
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Flow,
    Performative,
    Transfer,
    build_error,
)
from emulator.servicebus.amqp.transport import PeerTransport, PendingWork
from emulator.servicebus.amqp.types import Described, UInt, UShort

HANDLE_MAX = 255
_WINDOW = 0x7FFFFFFF
_WINDOW_RENEWED_AFTER = 0x40000000
_UNSETTLED_KEPT = 65536
_TRANSFER_HEAD_BYTES = 64
_SERIAL = 1 << 32
_TRANSFER = b"\x00\x53\x14"
_TRUE, _FALSE = b"\x41", b"\x42"
_TRANSFER_FIELDS = len(Transfer.kinds)
# The fields rcv-settle-mode, state, resume, aborted and batchable.
_LAST_TRANSFER_FIELDS = b"\x40" * 5


@dataclass(frozen=True, slots=True)
class _Unsettled:
    link: OutgoingLink
    tag: bytes


class Session:
    """One session of a connection.

    The server uses the channel number and the link handles that the peer chose.
    """

    def __init__(
        self,
        channel: int,
        begin: Begin,
        service: ConnectionService,
        transport: PeerTransport,
        pending: PendingWork,
    ) -> None:
        self.pending = pending
        self._channel = channel
        self._service = service
        self._transport = transport
        self._links: dict[int, Link | None] = {}
        """The links by handle. None means that only the server has detached the link so far."""
        self._unsettled: dict[int, _Unsettled] = {}
        self._waiting: deque[tuple[OutgoingLink, bytes]] = deque()
        """The transfers that wait until the peer's incoming window allows them."""
        self._next_incoming_id = int(begin.next_outgoing_id)
        self._next_outgoing_id = 0
        self._next_delivery_id = 0
        self._peer_window = int(begin.incoming_window)
        self._received_since_flow = 0
        self.is_ended = False
        """Whether the session has ended. Later frames on the session's channel are ignored.

        The session is kept until the peer uses the channel again, because clients send detach
        performatives after the end performative.
        """
        self._send(
            Begin(
                remote_channel=UShort(channel),
                next_outgoing_id=UInt(0),
                incoming_window=UInt(_WINDOW),
                outgoing_window=UInt(_WINDOW),
                handle_max=UInt(HANDLE_MAX),
            )
        )

    def handle(self, performative: Performative, payload: bytes) -> None:
        """Process a performative that the peer sent on this session. Raises AmqpError."""
        if self.is_ended:
            return
        match performative:
            case Transfer():
                self._on_transfer(performative, payload)
            case Disposition():
                self._on_disposition(performative)
            case Flow():
                self._on_flow(performative)
            case Attach():
                self._on_attach(performative)
            case Detach():
                self._on_detach(performative)
            case _:
                raise ConnectionFault(
                    "amqp:not-allowed",
                    "the peer sent a performative that is not allowed within a session",
                )

    def detach_links(self, find_fault: Callable[[Link], LinkFault | None]) -> int:
        """Detach each link for which `find_fault` returns an error; return their number."""
        count = 0
        for handle, link in list(self._links.items()):
            fault = None if link is None else find_fault(link)
            if fault is not None:
                self.detach(handle, fault)
                count += 1
        return count

    def set_blocked(self, blocked: bool) -> None:
        """Stop the deliveries of all links if `blocked` is True; otherwise resume deliveries."""
        for link in self._links.values():
            if link is not None:
                link.set_blocked(blocked or bool(self._waiting))

    def close(self) -> None:
        """Close all links of the session without sending a frame to the peer."""
        self.is_ended = True
        for link in self._links.values():
            if link is not None:
                link.on_detached()
        self._links.clear()
        self._unsettled.clear()
        self._waiting.clear()

    def end(self, fault: AmqpError | None) -> None:
        """Close all links and send an end performative, with the error if there is one."""
        self.close()
        self._send(End(None if fault is None else build_error(fault.condition, fault.description)))

    def end_by_peer(self) -> None:
        """Close all links, and reply with an end performative if none was sent."""
        if not self.is_ended:
            self.end(None)

    # Methods that links call

    def send_flow(
        self,
        *,
        handle: UInt | None = None,
        delivery_count: UInt | None = None,
        link_credit: UInt | None = None,
        drain: bool = False,
    ) -> None:
        """Send a flow performative with the session's windows and, with `handle`, a link's."""
        self._received_since_flow = 0
        self._send(
            Flow(
                next_incoming_id=UInt(self._next_incoming_id),
                incoming_window=UInt(_WINDOW),
                next_outgoing_id=UInt(self._next_outgoing_id),
                outgoing_window=UInt(_WINDOW),
                handle=handle,
                delivery_count=delivery_count,
                link_credit=link_credit,
                drain=drain,
            )
        )

    def send_disposition(
        self, *, as_receiver: bool, delivery_id: int, state: Described | None
    ) -> None:
        """Settle a delivery that the server received or sent, and send its state."""
        if not self.is_ended:
            self._send(
                Disposition(role=as_receiver, first=UInt(delivery_id), settled=True, state=state)
            )

    def send_delivery(self, link: OutgoingLink, tag: bytes, payload: bytes) -> None:
        """Send a message in transfers that fit, as soon as the peer's window is open."""
        delivery_id = self._next_delivery_id
        self._next_delivery_id = (delivery_id + 1) % _SERIAL
        if not link.is_presettled:
            self._unsettled[delivery_id] = _Unsettled(link, tag)
            if len(self._unsettled) > _UNSETTLED_KEPT:
                # The peer does not settle. Forget the oldest delivery. Its lock expires by itself.
                del self._unsettled[next(iter(self._unsettled))]
        room = self._transport.peer_max_frame_bytes - HEADER_BYTES - _TRANSFER_HEAD_BYTES
        settled = _TRUE if link.is_presettled else _FALSE
        # Each transfer has the id, because azure-servicebus 7.10 settles by the last transfer's id.
        fields = encode_uint(link.handle), encode_uint(delivery_id), encode_binary(tag), b"\x43"
        for start in range(0, len(payload) or 1, room):
            more = _TRUE if start + room < len(payload) else _FALSE
            all_fields = b"".join((*fields, settled, more, _LAST_TRANSFER_FIELDS))
            head = _TRANSFER + wrap_compound(0xC0, all_fields, _TRANSFER_FIELDS)
            self._send_transfer(link, head + payload[start : start + room])

    def detach(self, handle: int, fault: AmqpError | None) -> None:
        """Detach a link, with the error if there is one, and ignore its later frames."""
        link = self._links.get(handle)
        if link is None or self.is_ended:
            return
        if isinstance(link, OutgoingLink) and link.is_opening:
            self._send(build_attach_refusal(link.attach))
        self._forget(link)
        self._links[handle] = None
        error = None if fault is None else build_error(fault.condition, fault.description)
        self._send(Detach(UInt(handle), closed=True, error=error))

    # Methods that process the peer's performatives

    def _on_attach(self, attach: Attach) -> None:
        handle = int(attach.handle)
        if handle > HANDLE_MAX:
            raise FramingError(f"the link handle {handle} exceeds the maximum {HANDLE_MAX}")
        if handle in self._links:
            raise SessionFault(
                "amqp:session:handle-in-use", f"the link handle {handle} is already in use"
            )
        try:
            self._open_link(attach)
        except LinkFault as fault:
            self._refuse_attach(attach, fault)

    def _open_link(self, attach: Attach) -> None:
        handle = int(attach.handle)
        if not attach.role:
            address = read_target_address(attach)
            target = self._service.open_target(address)
            self._links[handle] = incoming = IncomingLink(self, attach, target, address)
            self._accept_attach(incoming, build_attach_reply(attach, target.max_message_bytes))
            return
        requested = read_source_request(attach)
        outgoing = OutgoingLink(self, attach, requested.address)
        source = self._service.open_source(requested, outgoing)
        self._links[handle] = outgoing
        if isinstance(source, asyncio.Future):
            outgoing.opening = source
            source.add_done_callback(partial(self._on_source_opened, outgoing))
        else:
            self._accept_source(outgoing, source)

    def _on_source_opened(self, link: OutgoingLink, opening: asyncio.Future[LinkSource]) -> None:
        if not link.is_opening:
            return  # the link was detached while the source was not available
        try:
            source = opening.result()
        except LinkFault as fault:
            link.on_detached()
            self._refuse_attach(link.attach, fault)
        else:
            self._accept_source(link, source)

    def _accept_source(self, link: OutgoingLink, source: LinkSource) -> None:
        link.source = source
        self._accept_attach(link, build_attach_reply(link.attach, None, source.attach_details))

    def _accept_attach(self, link: Link, reply: Attach) -> None:
        self._send(reply)
        link.set_blocked(self._transport.is_blocked or bool(self._waiting))
        link.on_attached()

    def _refuse_attach(self, attach: Attach, fault: LinkFault) -> None:
        self._links[int(attach.handle)] = None
        self._send(build_attach_refusal(attach))
        error = build_error(fault.condition, fault.description)
        self._send(Detach(attach.handle, closed=True, error=error))

    def _on_detach(self, detach: Detach) -> None:
        handle = int(detach.handle)
        if handle not in self._links:
            raise SessionFault(
                "amqp:session:unattached-handle", f"no attached link has the handle {handle}"
            )
        link = self._links.pop(handle)
        if link is not None:
            if isinstance(link, OutgoingLink) and link.is_opening:
                self._send(build_attach_refusal(link.attach))
            self._forget(link)
            self._send(Detach(detach.handle, closed=detach.closed))

    def _on_flow(self, flow: Flow) -> None:
        seen = 0 if flow.next_incoming_id is None else int(flow.next_incoming_id)
        on_the_way = serial_difference(self._next_outgoing_id, seen)
        self._peer_window = max(0, flow.incoming_window - on_the_way)
        self._send_waiting()
        if flow.handle is None:
            if flow.echo:
                self.send_flow()
            return
        link = self._link(flow.handle)
        if link is not None:
            link.on_flow(flow)

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) % _SERIAL
        self._received_since_flow += 1
        link = self._link(transfer.handle)
        if link is not None:
            link.on_transfer(transfer, payload)
        if self._received_since_flow >= _WINDOW_RENEWED_AFTER:
            self.send_flow()

    def _on_disposition(self, disposition: Disposition) -> None:
        if not disposition.role:
            return  # the server has already settled the deliveries that the peer sent
        outcome = read_outcome(disposition.state)
        if outcome is None:
            if not disposition.settled:
                return
            outcome = (
                Released()
            )  # the peer settled without a state, so return the message to the queue
        first = int(disposition.first)
        last = first if disposition.last is None else int(disposition.last)
        for delivery_id in self._unsettled_between(first, last):
            unsettled = self._unsettled.pop(delivery_id)
            self.pending.spawn(self._settle(delivery_id, unsettled, outcome, disposition))

    async def _settle(
        self, delivery_id: int, unsettled: _Unsettled, outcome: Outcome, disposition: Disposition
    ) -> None:
        state = disposition.state
        try:
            assert unsettled.link.source is not None
            await unsettled.link.source.settle(unsettled.tag, outcome)
        except MessageFault as fault:
            state = build_rejection(fault)
        else:
            state = None if state is None else build_confirmation(outcome, state)
        if not disposition.settled:
            self.send_disposition(as_receiver=False, delivery_id=delivery_id, state=state)

    def _unsettled_between(self, first: int, last: int) -> list[int]:
        count = serial_difference(last, first) + 1
        if count == 1:
            return [first] if first in self._unsettled else []
        # The peer may send a huge range, so iterate over the deliveries and not over the range.
        return [each for each in self._unsettled if 0 <= serial_difference(each, first) < count]

    def _link(self, handle: int) -> Link | None:
        try:
            return self._links[int(handle)]
        except KeyError:
            raise SessionFault(
                "amqp:session:unattached-handle", f"no attached link has the handle {handle}"
            ) from None

    def _forget(self, link: Link) -> None:
        """Close a link and forget its unsettled deliveries, also in later dispositions.

        Their messages stay locked: azure-servicebus may settle them with a management request.
        """
        link.on_detached()
        if isinstance(link, OutgoingLink):
            self._unsettled = {
                key: each for key, each in self._unsettled.items() if each.link is not link
            }
            self._waiting = deque(each for each in self._waiting if each[0] is not link)

    # Sending transfers

    def _send(self, performative: Performative) -> None:
        self._transport.send(self._channel, performative.encode())

    def _send_transfer(self, link: OutgoingLink, body: bytes) -> None:
        if self._waiting or not self._peer_window:
            self._waiting.append((link, body))
            if len(self._waiting) == 1:
                self.set_blocked(blocked=True)
            return
        self._transmit(body)

    def _send_waiting(self) -> None:
        if not self._waiting:
            return
        while self._waiting and self._peer_window:
            self._transmit(self._waiting.popleft()[1])
        if not self._waiting:
            self.set_blocked(blocked=self._transport.is_blocked)

    def _transmit(self, body: bytes) -> None:
        self._peer_window -= 1
        self._next_outgoing_id = (self._next_outgoing_id + 1) % _SERIAL
        self._transport.send(self._channel, body)
