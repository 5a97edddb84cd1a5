"""Compress large text responses with gzip for clients that accept it. Azure's host compresses none.

A compressed response has an ETag of its own, which ends in `-gzip`. Such an ETag in a condition of
a request means the same as the ETag without this suffix.

From the size of a compressed response an attacker could guess a secret in it, if the response also
contains text of the attacker (BREACH). The only secrets in responses are signed links, and a
response with a link is smaller than MIN_BYTES.
"""

import asyncio
import gzip
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_BYTES: Final = 8 * 1024
"""The size in bytes from which a response is compressed."""

# Compressing more than this blocks the event loop for more than about a millisecond.
_THREAD_BYTES: Final = 128 * 1024
_LEVEL: Final = 5
_SUFFIX: Final = b'-gzip"'
_TEXT: Final = re.compile(r"text/.*|application/(?:.*\+)?json\b.*", re.IGNORECASE)
_GZIP: Final = re.compile(
    r"\s*gzip\s*(?:;\s*q=(?P<weight>[01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII | re.IGNORECASE
)


def accepts_gzip(headers: Headers) -> bool:
    """Return whether the Accept-Encoding of a request permits gzip."""
    accepted = ",".join(headers.getlist("accept-encoding"))
    found = [_GZIP.fullmatch(part) for part in accepted.split(",")]
    return any(float(match["weight"] or 1) > 0 for match in found if match)


class CompressionMiddleware:
    """ASGI middleware that compresses responses of at least MIN_BYTES bytes of text or JSON.

    It does not change a response that is sent in several parts, or that has a Content-Encoding.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the app, and send the app's response, compressed if possible."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        conditions = b",".join(value for name, value in scope["headers"] if name.startswith(b"if-"))
        if _SUFFIX in conditions:
            scope["headers"] = [
                (name, value.replace(_SUFFIX, b'"') if name.startswith(b"if-") else value)
                for name, value in scope["headers"]
            ]
        is_accepted = accepts_gzip(Headers(scope=scope))
        start: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if message["status"] == 304:
                    _add_suffix(headers, conditions)
                elif "content-encoding" not in headers and _TEXT.match(
                    headers.get("content-type", "")
                ):
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) >= MIN_BYTES and not message.get("more_body", False):
                    headers = MutableHeaders(raw=start["headers"])
                    headers.add_vary_header("Accept-Encoding")
                    if is_accepted:
                        message = {**message, "body": await _compress(body)}
                        headers["content-length"] = str(len(message["body"]))
                        headers["content-encoding"] = "gzip"
                        _add_suffix(headers)
                held, start = start, None
                await send(held)
            await send(message)

        await self._app(scope, receive, send_compressed)


def _add_suffix(headers: MutableHeaders, conditions: bytes | None = None) -> None:
    """Add the suffix to the ETag of a response.

    With `conditions`, add it only if the request's conditions contain the ETag with the suffix.
    """
    if (tag := headers.get("etag")) is not None:
        marked = tag.encode("latin-1").removesuffix(b'"') + _SUFFIX
        if conditions is None or marked in conditions:
            headers["etag"] = marked.decode("latin-1")


async def _compress(body: bytes) -> bytes:
    if len(body) < _THREAD_BYTES:
        return gzip.compress(body, _LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)
