"""Serve AMQP connections: protocol headers, SASL, opening, closing and idle time-outs.

Sections 2.2 and 2.4 of the AMQP specification define connections. Part 5 defines SASL.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import Enum

from emulator.servicebus.amqp.errors import (
    AmqpError,
    ConnectionFault,
    FramingError,
    LinkFault,
    SessionFault,
)
from emulator.servicebus.amqp.frames import (
    HEADER_BYTES,
    MIN_MAX_FRAME_BYTES,
    SASL_FRAME,
    AmqpFrameReader,
    Frame,
    encode_frame,
)
from emulator.servicebus.amqp.link import ConnectionService, Link
from emulator.servicebus.amqp.performatives import (
    Begin,
    Close,
    End,
    Open,
    Performative,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    build_error,
    build_symbol_array,
    read_performative,
)
from emulator.servicebus.amqp.session import Session
from emulator.servicebus.amqp.transport import DelayLine, Latency, PeerTransport, PendingWork
from emulator.servicebus.amqp.types import Symbol, UByte, UInt, UShort

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
MAX_FRAME_BYTES = 65536
CHANNEL_MAX = 255
IDLE_SECONDS = 240.0
"""The time, in seconds, after which a connection is closed if its peer has sent no bytes.

The performative `open` informs the peer of half of this time (section 2.4.5).
"""

_HANDSHAKE_SECONDS = 30.0
_PROPERTIES = {Symbol("product"): "azure-local-emulator"}

logger = logging.getLogger(__name__)


class _State(Enum):
    HEADER = "waits for the first protocol header"
    SASL = "waits for the peer's SASL mechanism and response"
    AMQP_HEADER = "waits for the AMQP protocol header after SASL"
    OPENING = "waits for the performative open"
    OPEN = "open: the peer may begin and end sessions"
    CLOSED = "closed"


class Connection(asyncio.Protocol):
    """The server's side of one AMQP connection."""

    def __init__(
        self,
        service: ConnectionService,
        container_id: str,
        idle_seconds: float = IDLE_SECONDS,
        latency: Latency | None = None,
    ) -> None:
        self._service = service
        self._container_id = container_id
        self._idle_seconds = idle_seconds
        self._loop = asyncio.get_running_loop()
        self._state = _State.HEADER
        self._reader = AmqpFrameReader(MAX_FRAME_BYTES)
        latency = latency or Latency()
        self._transport = PeerTransport(latency)
        self._delay = DelayLine(latency, self._process)
        self._pending = PendingWork(self._regulate_reading, self.fail)
        self._sessions: dict[int, Session] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._received_at = self._loop.time()
        self._peer_idle_seconds: float | None = None

    # Methods that the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the transport of the connection, and start the time limit for the handshake."""
        self._transport.connect(transport)
        self._timer = self._loop.call_later(_HANDSHAKE_SECONDS, self._on_handshake_over)

    def connection_lost(self, exc: Exception | None) -> None:
        """Close all sessions, because the network connection is lost."""
        self._end()
        self._delay.clear()
        self._transport.disconnect()

    def data_received(self, data: bytes) -> None:
        """Process each complete frame, after the latency that a test may have set."""
        self._received_at = self._loop.time()
        self._delay.put(data)

    def _process(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._advance()
        except ConnectionFault as fault:
            self.fail(fault)
        except Exception:
            # An error on one connection must not affect other connections.
            logger.exception("received AMQP bytes could not be processed; closing the connection")
            self.fail(ConnectionFault("amqp:internal-error", "an internal error occurred"))

    def eof_received(self) -> bool:
        """Close the connection, because the peer sends no more bytes."""
        self._delay.flush()
        if self._state is not _State.CLOSED:
            self._finish()
        return False

    def pause_writing(self) -> None:
        """Pause deliveries and reading, because the transport's write buffer is full."""
        self._set_blocked(True)

    def resume_writing(self) -> None:
        """Resume deliveries and reading, because the transport's write buffer has space again."""
        self._set_blocked(False)

    # Methods that `PendingWork` and the server call

    def fail(self, fault: AmqpError) -> None:
        """Send the error to the peer and close the connection."""
        if self._state is _State.CLOSED:
            return
        logger.info("closing an AMQP connection because of an error: %s", fault)
        if self._state in {_State.OPEN, _State.OPENING}:
            if self._state is _State.OPENING:
                self._send_open()
            self._transport.send(0, Close(build_error(fault.condition, fault.description)).encode())
        self._finish()

    def detach_links(self, find_fault: Callable[[Link], LinkFault | None]) -> int:
        """Detach each link for which `find_fault` returns an error; return their number."""
        return sum(session.detach_links(find_fault) for session in self._sessions.values())

    def shut_down(self) -> None:
        """Close the connection because the server is shutting down."""
        self.fail(ConnectionFault("amqp:connection:forced", "the server is shutting down"))

    # Receiving frames

    def _advance(self) -> None:
        while self._state is not _State.CLOSED:
            if self._state is _State.HEADER or self._state is _State.AMQP_HEADER:
                header = self._reader.header()
                if header is None:
                    return
                self._on_header(header)
            else:
                frame = self._reader.frame()
                if frame is None:
                    return
                self._on_frame(frame)

    def _on_header(self, header: bytes) -> None:
        assert len(header) == HEADER_BYTES
        if header == AMQP_HEADER:
            self._state = _State.OPENING
            self._transport.write(AMQP_HEADER)
        elif header == SASL_HEADER and self._state is _State.HEADER:
            self._state = _State.SASL
            self._transport.write(SASL_HEADER + build_mechanisms_frame())
        else:
            # Section 2.2: reply to an unsupported header with a supported header, then close.
            self._transport.write(SASL_HEADER if self._state is _State.HEADER else AMQP_HEADER)
            self._finish()

    def _on_frame(self, frame: Frame) -> None:
        if self._state is _State.SASL:
            accepted, answer = answer_init(frame, self._service)
            self._transport.write(answer)
            self._state = _State.AMQP_HEADER
            if not accepted:
                self._finish()
            return
        if frame.type == SASL_FRAME:
            raise FramingError("the peer sent a SASL frame after the end of the SASL exchange")
        if frame.channel > CHANNEL_MAX:
            raise FramingError(
                f"the channel number {frame.channel} exceeds the maximum {CHANNEL_MAX}"
            )
        if frame.body:
            performative, payload_at = read_performative(frame.body)
            self._on_performative(frame.channel, performative, frame.body[payload_at:])

    def _on_performative(self, channel: int, performative: Performative, payload: bytes) -> None:
        if isinstance(performative, Open):
            self._on_open(performative)
        elif isinstance(performative, Close):
            if self._state is _State.OPENING:
                self._send_open()
            self._transport.send(0, Close().encode())
            self._finish()
        elif self._state is _State.OPENING:
            raise ConnectionFault(
                "amqp:not-allowed", "the peer must send the performative 'open' first"
            )
        elif isinstance(performative, Begin):
            self._on_begin(channel, performative)
        else:
            self._on_session(channel, performative, payload)

    def _on_open(self, peer_open: Open) -> None:
        if self._state is not _State.OPENING:
            raise ConnectionFault("amqp:not-allowed", "the peer sent the performative 'open' twice")
        self._send_open()
        if peer_open.max_frame_size < MIN_MAX_FRAME_BYTES:
            raise ConnectionFault(
                "amqp:invalid-field",
                f"max-frame-size must be {MIN_MAX_FRAME_BYTES} or more, "
                f"found {peer_open.max_frame_size}",
            )
        self._transport.peer_max_frame_bytes = min(int(peer_open.max_frame_size), MAX_FRAME_BYTES)
        if peer_open.idle_time_out:
            self._peer_idle_seconds = max(0.1, peer_open.idle_time_out / 1000)
        if self._timer is not None:
            self._timer.cancel()
        self._check_idle()

    def _send_open(self) -> None:
        self._state = _State.OPEN
        half_ms = UInt(int(self._idle_seconds * 500))
        self._transport.send(
            0,
            Open(
                self._container_id,
                max_frame_size=UInt(MAX_FRAME_BYTES),
                channel_max=UShort(CHANNEL_MAX),
                idle_time_out=half_ms,
                properties=_PROPERTIES,
            ).encode(),
        )

    def _on_begin(self, channel: int, begin: Begin) -> None:
        session = self._sessions.get(channel)
        if session is not None and not session.is_ended:
            raise ConnectionFault(
                "amqp:not-allowed", f"the channel {channel} already has a session"
            )
        if begin.remote_channel is not None:
            raise ConnectionFault(
                "amqp:not-allowed",
                "remote-channel must not be set, because the server begins no sessions itself",
            )
        self._sessions[channel] = Session(
            channel, begin, self._service, self._transport, self._pending
        )

    def _on_session(self, channel: int, performative: Performative, payload: bytes) -> None:
        session = self._sessions.get(channel)
        if session is None:
            raise ConnectionFault("amqp:not-allowed", f"the channel {channel} has no session")
        if isinstance(performative, End):
            session.end_by_peer()
            return
        try:
            session.handle(performative, payload)
        except SessionFault as fault:
            logger.info("ending an AMQP session because of an error: %s", fault)
            session.end(fault)

    # Pausing and resuming

    def _set_blocked(self, blocked: bool) -> None:
        self._transport.is_blocked = blocked
        self._regulate_reading()
        for session in self._sessions.values():
            session.set_blocked(blocked)

    def _regulate_reading(self) -> None:
        self._transport.set_reading(not self._transport.is_blocked and not self._pending.is_full)

    # Closing

    def _finish(self) -> None:
        self._end()
        self._transport.close()

    def _end(self) -> None:
        self._state = _State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    # Time limits

    def _on_handshake_over(self) -> None:
        logger.info(
            "closing an AMQP connection because the handshake took more than %g s",
            _HANDSHAKE_SECONDS,
        )
        self._finish()

    def _check_idle(self) -> None:
        """Schedule the next check of the idle time, and do what is due.

        After the server's idle time-out, close the connection. After half of the peer's, send an
        empty frame, so that the peer does not close it.
        """
        now = self._loop.time()
        if self._transport.is_reading and now - self._received_at >= self._idle_seconds:
            self.fail(
                ConnectionFault(
                    "amqp:resource-limit-exceeded",
                    "the peer sent no bytes within the idle time-out",
                )
            )
            return
        due_at = max(self._received_at + self._idle_seconds, now + 0.01)
        if self._peer_idle_seconds is not None:
            beat_seconds = self._peer_idle_seconds / 2
            if now - self._transport.sent_at >= beat_seconds * 0.9:
                self._transport.sent_at = now
                self._transport.send(0, b"")
            due_at = min(due_at, self._transport.sent_at + beat_seconds)
        self._timer = self._loop.call_at(due_at, self._check_idle)


MECHANISMS = "ANONYMOUS", "PLAIN", "MSSBCBS"

_OK = UByte(0)
_WRONG_CREDENTIALS = UByte(1)


def build_mechanisms_frame() -> bytes:
    """Return the frame with the SASL mechanisms, as the array that clients expect."""
    return _frame(SaslMechanisms(build_symbol_array(*MECHANISMS)).encode())


def answer_init(frame: Frame, service: ConnectionService) -> tuple[bool, bytes]:
    """Return whether the credentials in a sasl-init frame are accepted, and the answer.

    Raises ConnectionFault if the frame is not a sasl-init frame.
    """
    if frame.type != SASL_FRAME:
        raise ConnectionFault("amqp:not-allowed", "expected a SASL frame, found an AMQP frame")
    init, _ = read_performative(frame.body)
    if not isinstance(init, SaslInit):
        raise ConnectionFault("amqp:not-allowed", "the SASL frame must contain sasl-init")
    accepted = init.mechanism in MECHANISMS and service.authenticate(
        init.mechanism, init.initial_response
    )
    outcome = SaslOutcome(_OK if accepted else _WRONG_CREDENTIALS)
    return accepted, _frame(outcome.encode())


def _frame(body: bytes) -> bytes:
    return encode_frame(body, frame_type=SASL_FRAME)
