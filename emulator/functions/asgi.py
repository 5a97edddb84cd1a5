"""The few ASGI shapes that the host's own applications share."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MAX_BODY_BYTES = 100 * 1024 * 1024


class BodyTooLarge(Exception):
    """The request's body is over the limit."""


class ClientGone(Exception):
    """The client went away before its request was complete."""


async def read_body(scope: Scope, receive: Receive, limit_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the request's body; one that came in one piece is not copied.

    Raises BodyTooLarge as soon as that is known, and ClientGone.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise BodyTooLarge
    message = await receive()
    if message["type"] != "http.request":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    pieces, total_bytes = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        pieces.append(message.get("body", b""))
        total_bytes += len(pieces[-1])
        if total_bytes > limit_bytes:
            raise BodyTooLarge
    return b"".join(pieces)


async def respond(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_empty(send: Send, status: int) -> None:
    """Send a response without a body, as Azure's host does for its own errors."""
    await respond(send, status, [(b"content-length", b"0")], b"")


async def respond_json(send: Send, status: int, document: object) -> None:
    """Send a JSON document."""
    body = json.dumps(document).encode()
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await respond(send, status, headers, body)
