"""uvicorn's server and HTTP protocol with limits, so that no client keeps a connection for ever.

This module does not check the length of a body. The parser httptools answers 400 if a request has
two Content-Length headers, or both Content-Length and Transfer-Encoding.
"""

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from emulator.hosts import HostFilter, HostRules
from emulator.program import HttpLimits

_TIMEOUT_RESPONSE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 61\r\nconnection: close\r\n\r\n"
    b"RequestTimeout: the request did not arrive in the time limit\n"
)

TRANSPORT = "emulator.transport"
"""The ASGI extension that is the `ResponseTransport` of the client's connection."""

# A function may return any status of three digits, but uvicorn has only the lines below 600.
STATUS_LINE.update({status: b"HTTP/1.1 %d \r\n" % status for status in range(600, 1000)})


class ResponseTransport:
    """The transport of one response, which writes the head together with what follows.

    uvicorn writes the head and the body one after the other, so that each response would take two
    system calls and two TCP packets. The head waits for the body at most until the next iteration
    of the event loop, so a body that comes later does not delay it.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._is_begun = False

    def write(self, data: bytes) -> None:
        """Write bytes to the client: the first ones soon, all others at once."""
        if not self._is_begun:
            self._is_begun = True
            self._head = data
            self._loop.call_soon(self._write_head)
        elif self._head is None:
            self._transport.write(data)
        else:
            head, self._head = self._head, None
            self._transport.writelines((head, data))

    def is_closing(self) -> bool:
        """Return whether the connection is closed, or closes after what has been written."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection after what has been written."""
        self._write_head()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._write_head()
        self._transport.abort()

    def _write_head(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)


class HttpProtocol(HttpToolsProtocol):
    """Extends uvicorn's protocol with limits for slow clients and large request heads.

    The head of a request is its first line and its headers, with at most `max_head_bytes`. The head
    of the first request must arrive within `limits.head_seconds` after the connection was opened.
    The head of each later request must arrive within `limits.head_seconds` after the first byte of
    the request. While the client sends a body, each pause must be shorter than
    `limits.body_silence_seconds`. uvicorn's `timeout_keep_alive` is the limit for a connection that
    is idle after a response.
    """

    limits: ClassVar[HttpLimits] = HttpLimits()
    max_head_bytes: ClassVar[int] = 1024 * 1024

    _received = b""
    _head_bytes = 0
    _is_in_head = True
    _is_in_body = False
    _deadline: float | None = None
    """The time of the event loop's clock until which the client may stay silent; None: no limit."""
    # Each connection has one timer. A new deadline does not restart the timer. When the timer fires
    # before the deadline, it is started again.
    _request_timer: asyncio.TimerHandle | None = None

    @classmethod
    def with_limits(cls, limits: HttpLimits) -> type["HttpProtocol"]:
        """Return a subclass of this class that has these limits."""
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn
        """Start the time limit for the head of the first request."""
        super().connection_made(transport)
        self._await_within(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer that closes the connection of a slow client."""
        if self._request_timer is not None:
            self._request_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes, refuse a head that is too large, and extend the time for a body."""
        self._received = data
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self.send_400_response("The head of the request is too large.")
                return
            is_idle = self.cycle is None or self.cycle.response_complete
            if self._deadline is None and is_idle:
                self._await_within(self.limits.head_seconds)
        super().data_received(data)
        if self._is_in_body:
            self._await_within(self.limits.body_silence_seconds)

    def on_headers_complete(self) -> None:
        """Record that the head of the request is complete and that the body follows."""
        if self._is_upgrade():
            return
        self._is_in_head = False
        self._is_in_body = True
        self._head_bytes = 0
        transport = ResponseTransport(self.transport, self.loop)
        self.scope["extensions"] = {TRANSPORT: transport}  # type: ignore[dict-item] # ours
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose response has nothing after the head
            self.cycle.transport = transport  # type: ignore[assignment] # all that uvicorn uses

    def on_message_complete(self) -> None:
        """Remove the time limit for received bytes, because the request is complete."""
        if self._is_upgrade():
            return
        self._is_in_head = True
        self._is_in_body = False
        self._deadline = None
        super().on_message_complete()

    def _is_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _unsupported_upgrade_warning(self) -> None:
        """Parse the request again without its Upgrade header, as Kestrel ignores this header.

        httptools takes a request with this header for one without a body. Java's HttpClient asks
        in this way for HTTP/2, also with a body.
        """
        if not self._is_upgrade():
            super()._unsupported_upgrade_warning()
            return
        [end_of_head] = sys.exception().args  # type: ignore[union-attr] # uvicorn handles one
        kept = [header for header in self.headers if header[0] != b"upgrade"]
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s" % header for header in kept]
        self.data_received(b"\r\n".join([*lines, b"", self._received[end_of_head:]]))

    def _await_within(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
        if self._request_timer is None or self._request_timer.when() > self._deadline:
            if self._request_timer is not None:
                self._request_timer.cancel()
            self._request_timer = self.loop.call_at(self._deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._request_timer = None
        if self._deadline is None or self.transport.is_closing():
            return
        now = self.loop.time()
        if self._is_in_body and self.flow.read_paused:
            # The application does not read, so the client cannot send.
            self._deadline = now + self.limits.body_silence_seconds
        if now < self._deadline:
            self._request_timer = self.loop.call_at(self._deadline, self._look_at_deadline)
            return
        if self._head_bytes and not self._is_in_body:
            self.transport.write(_TIMEOUT_RESPONSE)
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn's server for one of the services, which leaves signals to the program."""

    def __init__(
        self,
        application: Any,
        limits: HttpLimits,
        protocol: type[HttpProtocol] = HttpProtocol,
        **options: Any,
    ) -> None:
        """Create the server; `options` are further options of uvicorn."""
        config = uvicorn.Config(
            HostFilter(application, HostRules(limits.allowed_hosts)),
            http=protocol.with_limits(limits),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # do not trust X-Forwarded-For: a client could set it
            **options,
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signal handlers unchanged."""
        yield
