"""Forward requests to the web server that an app's web extension has opened.

Both bodies pass in pieces. A slow reader on either side slows down the sender on the other side.

Sources: YARP's `HttpForwarder`, and the host's `DefaultHttpProxyService` and `RetryProxyHandler`.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httptools

from emulator.functions.asgi import Headers, Scope
from emulator.functions.exchange import (
    SILENCE_SECONDS,
    ActivityTimer,
    Exchange,
    ForwardedBodyTooLarge,
    ForwardError,
)
from emulator.functions.forwarding import (
    encode_path,
    request_headers,
    response_headers,
)

_ATTEMPTS = 10
_FIRST_DELAY_SECONDS = 0.05
_LONGEST_DELAY_SECONDS = 0.25
_BUFFER_BYTES = 64 * 1024
_REST_PIECES = 100
_WITHOUT_BODY = frozenset({204, 304})
_END = None


class WebProxy:
    """Forwards requests to a web server over connections that stay open. Implements Forwarder."""

    def __init__(self, address: str, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._authority = address.encode()
        self._silence_seconds = silence_seconds
        self._idle: list[_Connection] = []

    async def forward(
        self, exchange: Exchange, invocation_id: str, is_over: Callable[[], bool]
    ) -> None:
        """Pass a request to the server, and the response to the client. Raises ForwardError.

        While the server refuses the connection and `is_over` is false, try again for about 2 s.
        """
        scope = exchange.scope
        headers = request_headers(scope, self._authority, invocation_id)
        is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        upload = _Upload(exchange, is_chunked=is_chunked)
        first = _encode_head(scope, headers, is_chunked=is_chunked)
        if exchange.first is not None:
            first += upload.encode(await exchange.receive())
        else:
            upload.is_complete = not is_chunked
        while True:
            connection, is_reused = await self._connect(is_over)
            try:
                await connection.exchange(first, upload, exchange)
            except _ClosedUnused:
                # The server has closed an idle connection at the moment of its reuse.
                if not is_reused or upload.has_continued:
                    raise ForwardError("Request", 502) from None
                continue
            finally:
                if connection.is_reusable:
                    self._idle.append(connection)
                else:
                    connection.abort()
            return

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    async def _connect(self, is_over: Callable[[], bool]) -> tuple["_Connection", bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection, True
        loop = asyncio.get_running_loop()
        delay_seconds = _FIRST_DELAY_SECONDS
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
            if is_over():
                break
            try:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._silence_seconds), self._host, self._port
                )
            except OSError:
                continue
            return connection, False
        raise ForwardError("Request", 502, has_arrived=False)


class _ClosedUnused(Exception):
    """The server closed the connection before it sent a byte of the response."""


class _Upload:
    """The body of a request on its way to the server."""

    def __init__(self, exchange: Exchange, *, is_chunked: bool) -> None:
        self.is_chunked = is_chunked
        self.is_complete = False
        self.has_continued = False
        """Whether bytes were sent that are not among the first ones."""
        self._exchange = exchange
        self._size_bytes = 0

    def encode(self, message: Any) -> bytes:
        """Return the bytes for the server. Raises ForwardError if there are too many."""
        if message["type"] != "http.request":
            raise ForwardError("RequestCanceled", 400)
        body: bytes = message.get("body", b"")
        self._size_bytes += len(body)
        if self._size_bytes > self._exchange.max_body_bytes:
            raise ForwardedBodyTooLarge
        self.is_complete = not message.get("more_body", False)
        if not self.is_chunked:
            return body
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return chunk + b"0\r\n\r\n" if self.is_complete else chunk

    async def run(self, connection: "_Connection") -> None:
        """Pass on the rest of the body; then wait until the client disconnects."""
        while True:
            try:
                data = self.encode(await self._exchange.receive())
            except ForwardError as error:
                connection.fail(error)
                return
            if data:
                self.has_continued = True
                await connection.write(data)


class _Connection(asyncio.Protocol):
    """A connection to the server, on which one request is sent after the other."""

    def __init__(self, silence_seconds: float) -> None:
        self.is_reusable = False
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: Headers = []
        self._keeps_alive = False
        self._pieces: deque[bytes | tuple[int, Headers] | None] = deque()
        self._buffered_bytes = 0
        self._is_paused = False
        self._is_lost = False
        self._is_head = False
        self._has_received = False
        self._ends_with_connection = False
        self._error: ForwardError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self._timer = ActivityTimer(silence_seconds, self._on_silence)
        # A second descriptor of the socket while a body is sent: see `_read_rest`.
        self._spare: socket.socket | None = None

    async def exchange(self, first: bytes, upload: _Upload, exchange: Exchange) -> None:
        """Send a request, whose first bytes are `first`, and pass on the response."""
        self._begin(is_head=exchange.scope["method"] == "HEAD")
        if not upload.is_complete:
            self._spare = socket.socket(
                fileno=os.dup(self._transport.get_extra_info("socket").fileno())
            )
        self._transport.write(first)
        sending = self._loop.create_task(upload.run(self))
        try:
            await self._pass_response(exchange)
        except asyncio.CancelledError:
            assert self._task is not None
            if self._error is not None and self._task.uncancel() == 0:
                raise self._error from None
            raise
        finally:
            sending.cancel()
            self._task = None
            self._close_spare()
            if self._is_lost:
                self._timer.stop()
        # Bytes after the response would be taken for the next one.
        self.is_reusable = (
            upload.is_complete and self._keeps_alive and not (self._is_lost or self._pieces)
        )

    async def write(self, data: bytes) -> None:
        """Send bytes of a request, and wait while the server is slow to read them."""
        if self._is_lost:
            await self._loop.create_future()  # `exchange` ends this wait
        self._timer.extend()
        self._transport.write(data)
        await self._writable.wait()

    def fail(self, error: ForwardError) -> None:
        """End the current exchange with an error."""
        if self._task is None or self._error is not None:
            return
        self._error = error
        self.abort()
        if self._arrived is None:
            self._task.cancel()  # the client does not read the response
        else:
            self._wake()

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_reusable = False
        self._transport.abort()

    def _begin(self, *, is_head: bool) -> None:
        self.is_reusable = False
        self._task = asyncio.current_task()
        self._is_head = is_head
        self._has_received = False
        self._ends_with_connection = False
        self._timer.extend()

    async def _pass_response(self, exchange: Exchange) -> None:
        pieces = self._pieces
        while True:
            while not pieces:
                await self._wait()
            piece = pieces.popleft()
            if isinstance(piece, tuple):
                await exchange.start(*piece)
            elif piece is _END:
                await exchange.write(b"", more_body=False)
                return
            else:
                is_last = bool(pieces) and pieces[0] is _END
                self._take(len(piece))
                await exchange.write(piece, more_body=not is_last)
                if is_last:
                    pieces.popleft()
                    return
            self._timer.extend()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_lost:
            raise (
                ForwardError("ResponseBodyDestination", 502)
                if self._has_received
                else _ClosedUnused
            )
        self._arrived = self._loop.create_future()
        try:
            await self._arrived
        finally:
            self._arrived = None

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _take(self, size_bytes: int) -> None:
        self._buffered_bytes -= size_bytes
        if self._is_paused and self._buffered_bytes <= _BUFFER_BYTES // 2:
            self._is_paused = False
            if not self._is_lost and not self._transport.is_closing():
                self._transport.resume_reading()

    def _read_rest(self, spare: socket.socket) -> None:
        """Read the response of a server that closed the connection before it read the whole body.

        The transport ends with an error as soon as it writes to such a connection, although the
        response has arrived.
        """
        with suppress(OSError, httptools.HttpParserError):
            while len(self._pieces) < _REST_PIECES and (data := spare.recv(_BUFFER_BYTES)):
                self._has_received = True
                self._parser.feed_data(data)

    def _close_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def _on_silence(self) -> None:
        self.fail(ForwardError("RequestTimedOut", 504))

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._task is None:
            self.abort()  # the server must not send anything without a request
            return
        self._has_received = True
        self._timer.extend()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail(ForwardError("ResponseHeaders", 502))
            return
        if self._buffered_bytes > _BUFFER_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if self._pieces:
            self._wake()

    def eof_received(self) -> None:
        if self._ends_with_connection:
            self._pieces.append(_END)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_reusable = False
        self._is_lost = True
        if self._spare is not None and self._error is None:
            self._read_rest(self._spare)
        if self._task is None:
            self._timer.stop()
        self._writable.set()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status < 200:
            return  # uvicorn's 100 Continue
        self._keeps_alive = self._parser.should_keep_alive()
        self._pieces.append((self._status, response_headers(self._headers)))
        if self._is_head or self._status in _WITHOUT_BODY:
            self._pieces.append(_END)
            # The parser would wait for the body that Content-Length announces.
            self._parser = httptools.HttpResponseParser(self)
        else:
            self._ends_with_connection = not any(
                name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
            )

    def on_body(self, body: bytes) -> None:
        self._buffered_bytes += len(body)
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if self._status >= 200 and (not self._pieces or self._pieces[-1] is not _END):
            self._pieces.append(_END)


def _encode_head(scope: Scope, headers: Headers, *, is_chunked: bool) -> bytes:
    target = encode_path(scope["raw_path"])
    if query := scope["query_string"]:
        target += b"?" + query
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode(), target)]
    lines += [b"%b: %b" % header for header in headers]
    if is_chunked:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"
