"""The HTTP client that measures Loosely and its peers (other ways to serve a model).

The client runs in one thread, on the same processors as the measured servers, so the processor time
that it uses makes the servers slower. To use little processor time, the client sends prepared bytes
and parses responses with httptools. It sends requests over several connections at the same time.
Each connection waits for a response before its next request.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop

_OK = 200


@dataclass(frozen=True, slots=True)
class PeerRequests:
    """The URL, the path, the headers and the bodies of the requests of a benchmark.

    The requests use the `bodies` in order. After the last body, the first body is used again.
    """

    url: str
    path: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str]

    def encode(self) -> list[bytes]:
        """Return one complete HTTP request, as bytes, for each body."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return [
            f"POST {self.path} HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n{fields}"
            f"content-length: {len(body)}\r\n\r\n".encode("ascii")
            + body
            for body in self.bodies
        ]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its response.

    `number` is the position of the request among all requests. `begin` and `end` are times in
    seconds, as `time.perf_counter` returns them. If no response arrived, `status` is 0 and `body`
    is the error's text.
    """

    number: int
    begin: float
    end: float
    status: int
    body: bytes

    @property
    def is_ok(self) -> bool:
        """Whether the response has status 200."""
        return self.status == _OK


@dataclass(slots=True)
class Exchanges:
    """All requests of one run with their responses, in the order in which the requests ended."""

    found: list[Exchange] = field(default_factory=list)

    @property
    def ok(self) -> list[Exchange]:
        """The requests whose response has status 200."""
        return [each for each in self.found if each.is_ok]

    @property
    def seconds(self) -> float:
        """The time in seconds from the first request to the last response with status 200."""
        begin = min(each.begin for each in self.found)
        return max((each.end for each in self.ok), default=begin) - begin


class _Connection(asyncio.Protocol):
    """One HTTP connection that is kept open after each response.

    `response` is a future for the response to the last request, or None before the first request.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.response: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.response is not None and not self.response.done():
            self.response.set_exception(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        status, keeps = self._parser.get_status_code(), self._parser.should_keep_alive()
        if not keeps and self.transport is not None:
            self.transport.close()
            self.transport = None
        if self.response is not None and not self.response.done():
            self.response.set_result((status, body))

    def send(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self.transport is not None
        self.response = self._loop.create_future()
        self.transport.write(request)
        return self.response


def run(
    requests: PeerRequests,
    clients: int,
    count: int,
    timeout_seconds: float = 180.0,
    on_ok: Callable[[int], None] = lambda _: None,
) -> Exchanges:
    """Send `count` requests over `clients` connections, and return each with its response.

    A request without a response within the timeout has failed. `on_ok` is called after each status
    200 with the number of them so far.
    """
    return uvloop.run(_run(requests, clients, count, timeout_seconds, on_ok))


async def _run(
    requests: PeerRequests,
    clients: int,
    count: int,
    timeout_seconds: float,
    on_ok: Callable[[int], None],
) -> Exchanges:
    exchanges = Exchanges()
    encoded = requests.encode()
    numbers = iter(range(count))
    answered = 0

    async def client() -> None:
        nonlocal answered
        connection: _Connection | None = None
        for number in numbers:
            begin = time.perf_counter()
            status, body = 0, b""
            try:
                async with asyncio.timeout(timeout_seconds):
                    if connection is None or connection.transport is None:
                        connection = await _connect(requests.url)
                    status, body = await connection.send(encoded[number % len(encoded)])
            except (OSError, TimeoutError, httptools.HttpParserError) as error:
                body = repr(error).encode()
                if connection is not None and connection.transport is not None:
                    connection.transport.close()
                connection = None
            end = time.perf_counter()
            exchanges.found.append(Exchange(number, begin, end, status, body))
            if status == _OK:
                answered += 1
                on_ok(answered)
        if connection is not None and connection.transport is not None:
            connection.transport.close()

    await asyncio.gather(*(client() for _ in range(min(clients, count))))
    return exchanges


async def _connect(url: str) -> _Connection:
    target = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = target.hostname or "127.0.0.1", target.port or 80
    _, connection = await loop.create_connection(_Connection, host, port)
    return connection


def longest_silence(ends: Iterable[float], begin: float) -> float:
    """Return the longest time from `begin` on, in seconds, in which no response came."""
    times = [begin, *sorted(end for end in ends if end > begin)]
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)
