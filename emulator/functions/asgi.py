"""ASGI types and functions for the host, and a listener that runs uvicorn."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from emulator.http_server import HttpServer
from emulator.program import HttpLimits, port_in_use

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
MAX_BODY_BYTES = 100 * 1024 * 1024
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 130  # the default of Kestrel, the web server of Azure's host
_SHUTDOWN_SECONDS = 5


class BodyTooLarge(Exception):
    """The request's body is larger than the limit."""


class ClientGone(Exception):
    """The client disconnected before its request was complete."""


def declared_bytes(scope: Scope) -> int:
    """Return the size of a request's body in Content-Length; 0 if the header is missing."""
    return max(
        (
            int(value)
            for name, value in scope["headers"]
            if name == b"content-length" and value.isdigit()
        ),
        default=0,
    )


async def read_body(scope: Scope, receive: Receive, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the body of a request. Raises BodyTooLarge, or ClientGone if it is incomplete."""
    if declared_bytes(scope) > limit_bytes:
        raise BodyTooLarge
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    pieces, total_bytes = [body], len(body)
    while True:
        if total_bytes > limit_bytes:
            raise BodyTooLarge
        if not message.get("more_body", False):
            break
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        pieces.append(message.get("body", b""))
        total_bytes += len(pieces[-1])
    if len(pieces) == 1:
        return body
    return b"".join(pieces)


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a complete response to the client."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_empty(send: Send, status: int) -> None:
    """Send a response without a body, as Azure's host does for errors."""
    await respond(send, status, [(b"content-length", b"0")], b"")


async def respond_json(send: Send, status: int, document: object) -> None:
    """Send a response with a JSON document as its body."""
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await respond(send, status, headers, body)


class _Server(HttpServer):
    """A server that sets `ready` when it accepts requests."""

    def __init__(self, application: Any, limits: HttpLimits) -> None:
        super().__init__(
            application,
            limits,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Listener:
    """Serves one ASGI application on one or more sockets."""

    def __init__(
        self, application: Any, bound: Sequence[socket.socket], limits: HttpLimits | None = None
    ) -> None:
        self._server = _Server(application, limits or HttpLimits())
        self._sockets = list(bound)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to listen, and return when requests are accepted. Raises PortInUse."""
        # With SO_REUSEADDR two programs may bind a port, but only the first one can listen on it.
        for bound in self._sockets:
            try:
                bound.listen(_BACKLOG)
            except OSError as error:
                raise port_in_use(bound.getsockname()[1]) from error
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        await self._server.ready.wait()

    async def stop(self) -> None:
        """Stop listening, wait up to 5 s for requests in flight, and close the sockets."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for bound in self._sockets:
            bound.close()
