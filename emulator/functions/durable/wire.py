"""Just enough ASGI for the management API: read a request, write a response."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from emulator.functions.durable.errors import ArgumentInvalid, DurableError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_BODY_BYTES = 32 * 1024 * 1024
PREFIXES = ("/runtime/webhooks/durabletask", "/durabletask")


class BodyTooLarge(DurableError):
    """The request's body is larger than the host takes."""

    status = 413


class Disconnected(Exception):
    """The client went away before it had sent its request."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, its path cut to segments after the prefix."""

    method: str
    segments: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    url: str
    base_url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A response; the body is JSON text, or nothing."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the prefix under which the API is served, and the rest of the path."""

    prefix: str
    segments: tuple[str, ...] = field(default_factory=tuple)


def target_of(scope: Scope) -> Target:
    """Cut a path into the prefix and the rest, whether a mount has stripped it or not."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and path.startswith(root):
        path = path[len(root) :]
    prefix = root
    for known in PREFIXES:
        if path == known or path.startswith(known + "/"):
            prefix, path = root + known, path[len(known) :]
            break
    return Target(prefix, tuple(part for part in path.split("/") if part))


async def read_request(scope: Scope, receive: Receive) -> Request:
    """Read a whole request; raises BodyTooLarge, Disconnected or ArgumentInvalid."""
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
    }
    target = target_of(scope)
    query_text = scope.get("query_string", b"").decode("latin-1")
    try:
        query = {
            name.lower(): value
            for name, value in parse_qsl(query_text, keep_blank_values=True, max_num_fields=100)
        }
    except ValueError as problem:
        raise ArgumentInvalid(f"Bad query: {problem}") from problem
    origin = f"{scope.get('scheme', 'http')}://{headers.get('host', '127.0.0.1')}"
    return Request(
        scope["method"],
        target.segments,
        query,
        headers,
        f"{origin}{quote(scope['path'])}" + (f"?{query_text}" if query_text else ""),
        origin + PREFIXES[0],
        await _read_body(receive),
    )


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > LONGEST_BODY_BYTES:
            raise BodyTooLarge(f"A body may have {LONGEST_BODY_BYTES} bytes at most")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


async def write_response(send: Send, response: Response) -> None:
    """Write a response."""
    body = response.body.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    if body:
        headers.append((b"content-type", b"application/json; charset=utf-8"))
    headers += [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_response(error: DurableError, message: str) -> Response:
    """Write an error the way the extension does; the SDK reads `ExceptionMessage`."""
    return Response(
        error.status,
        json.dumps(
            {
                "Message": message,
                "ExceptionMessage": str(error),
                "ExceptionType": error.kind,
                "StackTrace": None,
            }
        ),
    )
