"""Test AMQP over WebSocket: handshake, frames and refusals."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.amqp.connection import SASL_HEADER
from emulator.servicebus.amqp.errors import WebSocketError
from emulator.servicebus.amqp.websocket import (
    ProtocolDetector,
    WebSocketFrame,
    WebSocketFrameReader,
    encode_websocket_frame,
)
from servicebus_tests.amqp.amqp_peer import MemoryTransport, serving

REQUEST = (
    "GET /$servicebus/websocket/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: AMQPWSB10\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Visit:
    """A client's connection to the protocol detector, which accepts AMQP and WebSocket."""

    def __init__(self, entrance: ProtocolDetector) -> None:
        self.protocol: asyncio.Protocol = entrance
        self.transport = SwitchingTransport(self)
        entrance.connection_made(self.transport)

    async def say(self, data: bytes) -> bytes:
        self.protocol.data_received(data)
        for _ in range(8):
            await asyncio.sleep(0)
        written, self.transport.written = self.transport.written, b""
        return written


class SwitchingTransport(MemoryTransport):
    """An in-memory transport whose protocol can be replaced, as with a socket transport."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self._visit = visit

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._visit.protocol = protocol


@pytest.fixture
async def visit(tmp_path: Path) -> AsyncIterator[Visit]:
    async with serving(tmp_path) as (namespace, _):
        visit = Visit(ProtocolDetector(namespace.connect))
        yield visit
        visit.protocol.connection_lost(None)


def masked(opcode: int, payload: bytes, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Return a masked WebSocket frame, as a client must send it."""
    head = bytearray(encode_websocket_frame(opcode, payload)[: -len(payload) or None])
    head[1] |= 0x80
    body = bytes(octet ^ mask[at % 4] for at, octet in enumerate(payload))
    return bytes(head) + mask + body


def unmasked(data: bytes) -> WebSocketFrame:
    """Decode a frame that the server sent. `data` must contain exactly one frame."""
    length, at = data[1], 2
    if length == 126:
        (length,), at = struct.unpack_from(">H", data, 2), 4
    assert len(data) == at + length
    return WebSocketFrame(data[0] & 0x0F, data[at:])


async def test_amqp_instead_of_http_is_accepted(
    visit: Visit,
) -> None:
    assert await visit.say(SASL_HEADER[:1]) == b""
    assert (await visit.say(SASL_HEADER[1:])).startswith(SASL_HEADER)


async def test_frames_follow_the_handshake(visit: Visit) -> None:
    answer = b""
    for at in range(len(REQUEST)):
        answer += await visit.say(REQUEST[at : at + 1].encode())
    assert answer.startswith(b"HTTP/1.1 101 ")
    # The example of RFC 6455, section 1.3.
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol: AMQPWSB10\r\n" in answer
    # A WebSocket message may contain any part of an AMQP frame.
    assert await visit.say(masked(2, SASL_HEADER[:3])) == b""
    said = unmasked(await visit.say(masked(2, SASL_HEADER[3:])))
    assert said.opcode == 2
    assert said.payload.startswith(SASL_HEADER)
    assert unmasked(await visit.say(masked(9, b"ping"))) == WebSocketFrame(10, b"ping")
    assert unmasked(await visit.say(masked(8, b""))).opcode == 8
    assert visit.transport.is_closing()


async def test_loopback_page_can_open_a_websocket(visit: Visit) -> None:
    request = REQUEST.replace("Host:", "Origin: http://localhost:3000\r\nHost:")
    assert (await visit.say(request.encode())).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (REQUEST.replace("$servicebus", "other"), b"404"),
        (REQUEST.replace("Upgrade: websocket", "Upgrade: h2c"), b"400"),
        (REQUEST.replace("AMQPWSB10", "chat"), b"400"),
        (REQUEST.replace("dGhl", "!"), b"400"),
        ("GET  \r\n\r\n", b"404"),
        (REQUEST.replace("Host: localhost", "Host: evil.example"), b"421"),
        (REQUEST.replace("Host:", "Origin: https://evil.example\r\nHost:"), b"403"),
    ],
)
async def test_other_http_requests_are_refused(
    visit: Visit, request_text: str, status: bytes
) -> None:
    assert (await visit.say(request_text.encode())).startswith(b"HTTP/1.1 " + status)
    assert visit.transport.is_closing()


async def test_request_over_the_limit_closes_the_connection(visit: Visit) -> None:
    await visit.say(b"GET /" + b"x" * 10_000)
    assert visit.transport.is_closing()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode_websocket_frame(2, b"not masked"), 1002),
        (b"\xc2" + masked(2, b"reserved bit")[1:], 1002),
        (masked(3, b"no such opcode"), 1002),
        (struct.pack(">BBQ", 0x82, 0xFF, 1 << 40), 1009),
    ],
)
async def test_invalid_frame_closes_the_connection(visit: Visit, frame: bytes, code: int) -> None:
    await visit.say(REQUEST.encode())
    assert unmasked(await visit.say(frame)) == WebSocketFrame(8, struct.pack(">H", code))
    assert visit.transport.is_closing()


@given(
    st.lists(st.tuples(st.sampled_from([0, 2, 9]), st.binary(max_size=300)), max_size=8),
    st.binary(min_size=4, max_size=4),
    st.integers(1, 50),
)
def test_split_bytes_are_read_as_frames(
    sent: list[tuple[int, bytes]], mask: bytes, step: int
) -> None:
    stream = b"".join(masked(opcode, payload, mask) for opcode, payload in sent)
    reader, received = WebSocketFrameReader(), []
    for at in range(0, len(stream), step):
        reader.feed(stream[at : at + step])
        while (message := reader.frame()) is not None:
            received.append((message.opcode, message.payload))
    assert received == sent


@given(st.binary(max_size=100))
def test_any_bytes_are_frames_or_raise_an_error(
    data: bytes,
) -> None:
    reader = WebSocketFrameReader()
    reader.feed(data)
    with contextlib.suppress(WebSocketError):
        while reader.frame() is not None:
            pass
