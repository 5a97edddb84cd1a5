"""AMQP over WebSocket. Each AMQP port accepts connections with and without WebSocket.

In the OASIS standard "AMQP WebSocket Binding", binary WebSocket messages carry the bytes of an AMQP
connection. An AMQP frame may start in one WebSocket message and end in another.
"""

import asyncio
import re
import struct
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, cast

from emulator.hosts import HostRules
from emulator.servicebus.amqp.errors import WebSocketError

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PATH = "/$servicebus/websocket"
_SUBPROTOCOLS = "AMQPWSB10", "amqp"
_MAX_HEAD_BYTES = 8192
_MAX_MESSAGE_BYTES = 1024 * 1024
_HANDSHAKE_SECONDS = 30.0
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")

_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_NORMAL, _PROTOCOL_ERROR, _TOO_BIG = 1000, 1002, 1009
_Connect = Callable[[], asyncio.Protocol]


class ProtocolDetector(asyncio.Protocol):
    """Reads the first bytes from a peer, and selects AMQP or WebSocket for the connection."""

    def __init__(self, connect: _Connect, rules: HostRules | None = None) -> None:
        """Create the detector; without `rules`, WebSockets need loopback names."""
        self._connect = connect
        self._rules = rules or HostRules()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit for the peer's first bytes."""
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_HANDSHAKE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Detect the protocol from the first bytes. Pass all bytes to the protocol's handler."""
        self._received += data
        if self._received[:4] == b"GET "[: len(self._received)]:
            if len(self._received) >= 4:
                self._hand_over(WebSocketConnection(self._connect(), self._rules))
        else:
            self._hand_over(self._connect())

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the time limit for the peer's first bytes."""
        self._stop_timer()

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        assert self._transport is not None
        self._stop_timer()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._received)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


@dataclass(frozen=True, slots=True)
class WebSocketFrame:
    """One WebSocket frame. The payload is unmasked."""

    opcode: int
    payload: bytes


class WebSocketFrameReader:
    """Splits received bytes into WebSocket frames."""

    def __init__(self) -> None:
        self._data = b""
        self._offset = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes to the buffer."""
        self._data = self._data[self._offset :] + data
        self._offset = 0

    def frame(self) -> WebSocketFrame | None:
        """Return the next complete frame, or None. Raises WebSocketError if it is invalid."""
        data, start = self._data, self._offset
        if len(data) < start + 2:
            return None
        first, second = data[start], data[start + 1]
        if first & 0x70 or not second & 0x80:
            # A reserved bit is set, or the client's frame is not masked.
            raise WebSocketError(_PROTOCOL_ERROR)
        length, mask_at = second & 0x7F, start + 2
        if length >= 126:
            layout = ">H" if length == 126 else ">Q"
            mask_at += struct.calcsize(layout)
            if len(data) < mask_at:
                return None
            (length,) = struct.unpack_from(layout, data, start + 2)
        if length > _MAX_MESSAGE_BYTES:
            raise WebSocketError(_TOO_BIG)
        payload_at = mask_at + 4
        end = payload_at + length
        if len(data) < end:
            return None
        self._offset = end
        return WebSocketFrame(first & 0x0F, _mask(data[payload_at:end], data[mask_at:payload_at]))


def _mask(payload: bytes, mask: bytes) -> bytes:
    if not payload:
        return b""
    length = len(payload)
    whole = (mask * (length // 4 + 1))[:length]
    masked = int.from_bytes(payload, "little") ^ int.from_bytes(whole, "little")
    return masked.to_bytes(length, "little")


def encode_websocket_frame(opcode: int, payload: bytes) -> bytes:
    """Encode a frame, unmasked as a server must."""
    first, length = 0x80 | opcode, len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 1 << 16:
        return struct.pack(">BBH", first, 126, length) + payload
    return struct.pack(">BBQ", first, 127, length) + payload


class WebSocketConnection(asyncio.Protocol):
    """A WebSocket connection that carries one AMQP connection."""

    def __init__(self, connection: asyncio.Protocol, rules: HostRules | None = None) -> None:
        self._connection = connection
        self._rules = rules or HostRules()
        self._reader = WebSocketFrameReader()
        self._head: bytes | None = b""
        """The received part of the HTTP request. None after the response has been sent."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the AMQP connection, whose time for a handshake includes HTTP's."""
        self._transport = cast(asyncio.Transport, transport)
        self._connection.connection_made(_WebSocketTransport(self._transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """Inform the AMQP connection that the WebSocket connection is lost."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Inform the AMQP connection that the write buffer is full."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Inform the AMQP connection that the write buffer has space again."""
        self._connection.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Respond to the HTTP request that the peer sends first, then process WebSocket frames."""
        assert self._transport is not None
        if self._head is not None:
            self._head += data
            head, separator, rest = self._head.partition(b"\r\n\r\n")
            if not separator:
                if len(self._head) > _MAX_HEAD_BYTES:
                    self._transport.close()
                return
            self._head, data = None, rest
            accepted, answer = _check_upgrade(head, self._rules)
            self._transport.write(answer)
            if not accepted:
                self._transport.close()
        try:
            self._reader.feed(data)
            while not self._transport.is_closing():
                frame = self._reader.frame()
                if frame is None:
                    return
                self._on_frame(frame)
        except WebSocketError as error:
            self._close(error.code)

    def _on_frame(self, frame: WebSocketFrame) -> None:
        assert self._transport is not None
        if frame.opcode in {_BINARY, _CONTINUATION}:
            self._connection.data_received(frame.payload)
        elif frame.opcode == _PING:
            self._transport.write(encode_websocket_frame(_PONG, frame.payload[:125]))
        elif frame.opcode == _CLOSE:
            self._close(_NORMAL)
        elif frame.opcode != _PONG:
            raise WebSocketError(_PROTOCOL_ERROR)

    def _close(self, code: int) -> None:
        assert self._transport is not None
        self._transport.write(encode_websocket_frame(_CLOSE, struct.pack(">H", code)))
        self._transport.close()


class _WebSocketTransport(asyncio.Transport):
    """The AMQP connection's transport, which sends each write as one WebSocket frame."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport

    def write(self, data: Any) -> None:
        self._transport.write(encode_websocket_frame(_BINARY, bytes(data)))

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(encode_websocket_frame(_CLOSE, struct.pack(">H", _NORMAL)))
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)


def _check_upgrade(head: bytes, rules: HostRules) -> tuple[bool, bytes]:
    """Return whether a request to open a WebSocket is accepted, and the response.

    Any page can ask its browser for a WebSocket, and the emulator's keys are public, so the page's
    origin must be allowed.
    """
    request, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "host" in headers and not rules.allows(headers["host"]):
        return False, _refusal("421 Misdirected Request")
    if "origin" in headers and not rules.allows_origin(headers["origin"]):
        return False, _refusal("403 Forbidden")
    target = request.split(" ")[1] if request.count(" ") == 2 else ""
    if target.partition("?")[0].rstrip("/").lower() != _PATH:
        return False, _refusal("404 Not Found")
    key = headers.get("sec-websocket-key", "")
    offered = [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((each for each in _SUBPROTOCOLS if each in offered), None)
    if headers.get("upgrade", "").lower() != "websocket" or not _KEY.fullmatch(key) or not chosen:
        return False, _refusal("400 Bad Request")
    accept = b64encode(sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    return True, (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {chosen}\r\n\r\n"
    ).encode()


def _refusal(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
