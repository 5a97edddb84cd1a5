"""Call the gateway as Azure's language worker does, with and without the extension's own server."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from gateway.durable import Durable
from gateway.web_extension import AppResponse, WebApp, WebServer
from tests.ports import free_port


@dataclass
class Answer:
    """The response to a call."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


def scope_of(method: str, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the ASGI scope of a request, as the extension's server makes it."""
    parts = urlsplit(url)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "unused",
        "raw_path": parts.path.encode("utf-8", "replace"),
        "query_string": parts.query.encode("utf-8", "replace"),
        "headers": [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in headers.items()
        ],
    }


async def call(
    app: ASGIApp,
    durable: Durable,
    scope: dict[str, Any],
    pieces: Iterable[bytes] = (),
) -> Answer:
    """Call the app with the pieces of a body, each of which is taken when the app reads it."""
    left, answer, has_ended = iter(pieces), Answer(), asyncio.Event()

    async def receive() -> Message:
        piece = next(left, None)
        if piece is not None:
            return {"type": "http.request", "body": piece, "more_body": True}
        if scope.pop("asgi", None):
            return {"type": "http.request", "body": b"", "more_body": False}
        await has_ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answer.status, answer.headers = message["status"], Headers(raw=message["headers"])
        else:
            answer.body += message.get("body", b"")
            if not message.get("more_body", False):
                has_ended.set()

    await AppResponse(app, durable)(scope, receive, send)
    return answer


@asynccontextmanager
async def serving(app: ASGIApp, durable: Any = None) -> AsyncIterator[str]:
    """Serve an app on the extension's own server, as the language worker does; yield its URL."""
    web_app, port = WebApp(), free_port()

    @web_app.route
    async def catch_all(request: Request) -> Response:
        return AppResponse(app, durable)

    server = WebServer("127.0.0.1", port, web_app)
    served = asyncio.create_task(server.serve())
    try:
        while not _is_open(port):  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.server.should_exit = server.server.force_exit = True
        await served


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
