"""Pass the requests of a Functions HTTP trigger to an ASGI app.

This module replaces `func.AsgiMiddleware`, which has four faults. It builds a WSGI environment for
each request. It polls every 100 ms if the app calls `receive` a second time. It uses
Content-Encoding as a charset. It keeps only the last value of a repeated response header.

Azure Functions passes the complete body of each request and response. Therefore the app cannot
stream, and does not notice that a caller has disconnected.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import azure.functions as func

from gateway.durable import Durable
from gateway.http.responses import PROBLEM_MEDIA_TYPE
from gateway.problems import malformed

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]

# Since version 2.4 of ASGI, an app may ignore a disconnect while it sends.
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}

# The private attribute in which the SDK's request keeps its body.
_SDK_BODY: Final = "_HttpRequest__body_bytes"


class _Exchange:
    """One HTTP request and its response. The app gets `receive` and `send` as ASGI callables."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.has_ended = asyncio.Event()
        self._chunks: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._status = 0

    async def receive(self) -> Message:
        """Return the request body once; then wait until the response is complete to disconnect."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.has_ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Store one part of the app's response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message.get("headers", ()):
                self._add_header(name.decode("latin-1"), value.decode("latin-1"))
        elif message["type"] == "http.response.body":
            self._chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                self.has_ended.set()

    def _add_header(self, name: str, value: str) -> None:
        if name != "content-length":  # the Functions host sets it
            earlier = self._headers.get(name)
            self._headers[name] = value if earlier is None else f"{earlier}, {value}"

    def response(self) -> func.HttpResponse:
        """Return the collected response as a Functions response."""
        return func.HttpResponse(
            b"".join(self._chunks),
            status_code=self._status,
            headers=self._headers,
            mimetype=self._headers.get("content-type"),
        )


async def serve(app: App, request: func.HttpRequest, durable: Durable) -> func.HttpResponse:
    """Pass a request to the app, and return the app's response.

    The ASGI scope contains the Durable Functions client `durable` for the app. A request with an
    invalid Host header gets 400, without a call of the app. If the app raises an error after it has
    sent its whole response, the error is logged and the response returned. An earlier error is
    raised.
    """
    scope = _scope(request, durable)
    if scope is None:
        # Starlette reads the Host header too, so no route can answer such a request.
        problem = malformed("the Host header is not a host name or address")
        headers = {"content-type": PROBLEM_MEDIA_TYPE}
        return func.HttpResponse(
            json.dumps(problem.document("/", None)), status_code=400, headers=headers
        )
    exchange = _Exchange(_take_body(request))
    try:
        await app(scope, exchange.receive, exchange.send)
    # If a route fails, Starlette sends our 500 response and then raises the error again.
    except Exception:
        if not exchange.has_ended.is_set():
            raise
        _log.exception("a request failed because of an error in the gateway's code")
    return exchange.response()


def _take_body(request: func.HttpRequest) -> bytes:
    """Take the body out of a request, which Azure's worker keeps until the response is sent."""
    body = request.get_body() or b""
    if hasattr(request, _SDK_BODY):
        setattr(request, _SDK_BODY, b"")
    return body


def _scope(request: func.HttpRequest, durable: Durable) -> dict[str, Any] | None:
    """Return the ASGI scope of a request; None if its Host header is not valid."""
    try:
        url = urlsplit(request.url)
    except ValueError:
        return None
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme or "http",
        "path": unquote(url.path) or "/",
        "raw_path": url.path.encode("utf-8", "replace"),
        "query_string": url.query.encode("utf-8", "replace"),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in request.headers.items()
        ],
        "server": None,
        "client": None,
        "state": {},
        "durable": durable,
    }
