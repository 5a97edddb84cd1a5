"""The frames that the host and the app process exchange over a socket.

A frame consists of two lengths, a JSON head and a raw body:

    !II head_bytes body_bytes | head: a JSON array | body

The first item of the head is the kind of the frame, or the number (id) of an invocation:

    app  → host  ["index", functions, web]         the functions of the app, see indexing.py;
                                                   web: the address of the server of its web
                                                   extension, empty if it is not served, or null
                 ["refused", error, traceback]     why the app cannot be loaded
    host → app   ["begin", client_binding]         the durable client's JSON, or null
                 [id, name, "http", method, url, headers, query, route, trace, invocation]
                                               body: request body
                 [id, name, datum type, metadata, trace, invocation]
                                               body: trigger data
                 [id, name, "web", route, trace, invocation]
                                               the request arrives at the server of the extension
                 trace is [traceparent, tracestate]; invocation is the invocation id of Azure
    app  → host  [id, "http", status, headers]     body: response body
                 [id, "data", present]             body: the returned datum as text
                                                   present: false if the function returned None
                 [id, "web"]                       the function has given its response to the server
                 [id, "error", type name, message, stack]
"""

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Any, cast

_LENGTHS = struct.Struct("!II")
_JOIN_BELOW_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024 * 1024
MAX_BODY_BYTES = 512 * 1024 * 1024


class FrameError(Exception):
    """The other process sent bytes that are not a valid frame."""


def encode_frame(head: list[Any], body: bytes = b"") -> bytes:
    """Return a frame as one bytes object."""
    return encode_prefix(head, len(body)) + body


def encode_prefix(head: list[Any], body_bytes: int) -> bytes:
    """Return the first part of a frame: its two lengths and the head."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return _LENGTHS.pack(len(text), body_bytes) + text


class FrameReader:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._wanted_bytes = _LENGTHS.size

    def feed(self, data: bytes) -> list[tuple[list[Any], bytes]]:
        """Buffer received bytes; return the complete frames as pairs (head, body).

        Raises FrameError if a length is over its limit or a head is not a JSON array.
        """
        if not self._pending:
            frames, used, self._wanted_bytes = _parse(data)
            if used < len(data):
                self._pending += memoryview(data)[used:]
            return frames
        self._pending += data
        if len(self._pending) < self._wanted_bytes:
            return []
        frames, used, self._wanted_bytes = _parse(self._pending)
        del self._pending[:used]
        return frames


def _parse(data: bytes | bytearray) -> tuple[list[tuple[list[Any], bytes]], int, int]:
    """Split `data` into frames, pairs (head, body).

    Also return their size in bytes, and the size of the incomplete frame at the end, or of its two
    lengths if these are incomplete.
    """
    frames: list[tuple[list[Any], bytes]] = []
    offset, total = 0, len(data)
    with memoryview(data) as view:
        while True:
            start = offset + _LENGTHS.size
            if total < start:
                return frames, offset, _LENGTHS.size
            head_bytes, body_bytes = _LENGTHS.unpack_from(view, offset)
            if head_bytes > MAX_HEAD_BYTES or body_bytes > MAX_BODY_BYTES:
                raise FrameError(
                    f"a frame has a head of {head_bytes} bytes and a body of {body_bytes} bytes, "
                    f"but the limits are {MAX_HEAD_BYTES} bytes for a head and "
                    f"{MAX_BODY_BYTES} bytes for a body"
                )
            body_start = start + head_bytes
            end = body_start + body_bytes
            if total < end:
                return frames, offset, end - offset
            head = _parse_head(bytes(view[start:body_start]))
            frames.append((head, bytes(view[body_start:end]) if body_bytes else b""))
            offset = end


def _parse_head(text: bytes) -> list[Any]:
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError("the head of a frame is not valid JSON") from error
    if not isinstance(head, list) or not head:
        raise FrameError("the head of a frame must be a JSON array with at least one item")
    return head


class FrameConnection(asyncio.Protocol):
    """One end of the connection between the host and the app process.

    Received frames are passed to `on_frame` in order. When the connection is closed, `on_lost` is
    called with the error, or with None if the connection ended without an error. The caller must
    await `drain` before it calls `send`, so that a slow receiver slows down the sender.
    """

    def __init__(
        self,
        on_frame: Callable[[list[Any], bytes], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.WriteTransport | None = None
        self._writable: asyncio.Event | None = None
        self._broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport to which `send` writes."""
        # Not checked with isinstance: uvloop's transports have the methods, not the base class.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass each complete frame to `on_frame`. Close the connection if a frame is invalid."""
        try:
            frames = self._reader.feed(data)
        except FrameError as error:
            self._broken = error
            self.abort()
            return
        for head, body in frames:
            self._on_frame(head, body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the tasks that wait in `drain`, and call `on_lost`."""
        self._transport = None
        if self._writable is not None:
            self._writable.set()
        self._on_lost(self._broken or exc)

    def pause_writing(self) -> None:
        """Make `drain` wait, because the write buffer of the transport is full."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Wake the tasks that wait in `drain`, because the transport accepts more bytes again."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    async def drain(self) -> None:
        """Wait until the transport accepts more bytes."""
        if self._writable is not None:
            await self._writable.wait()

    def send(self, head: list[Any], body: bytes = b"") -> None:
        """Write a frame to the transport. Raises ConnectionError if the connection is lost."""
        if self._transport is None:
            raise ConnectionResetError(
                "the connection between the host and the app process is lost"
            )
        if len(body) < _JOIN_BELOW_BYTES:
            self._transport.write(encode_frame(head, body))
        else:
            self._transport.writelines((encode_prefix(head, len(body)), body))

    def abort(self) -> None:
        """Close the connection at once, without sending the frames that are still in the buffer."""
        if self._transport is not None:
            self._transport.abort()
