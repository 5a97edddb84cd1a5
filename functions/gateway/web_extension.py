"""Serve the API as a web extension of Azure Functions, so that bodies stream in both directions.

The language worker finds the extension by this module's classes, which `azurefunctions.extensions`
registers. It starts `WebServer`, to which the Functions host passes each HTTP request. `WebApp`
waits until the worker has called the HTTP function for the request, and lets the function's
response answer it. That response, `AppResponse`, is a call of our app.
"""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import uvicorn
from azurefunctions.extensions import base
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.durable import Durable
from gateway.http.requests import announced_bytes
from gateway.http.responses import PROBLEM_MEDIA_TYPE
from gateway.problems import malformed

MAX_REQUEST_SECONDS: Final = 57 * 60
"""The longest time of a request. After `functionTimeout` the host restarts the language worker."""

# The host's proxy closes an idle connection after a minute. If this server were first, the proxy
# could send a request to a connection that is about to close.
_KEEP_ALIVE_SECONDS: Final = 75

# The host ends a chunked body with an empty 500 when it has passed on more than its own limit. Our
# 413 comes first only if few bytes lie between both. With these sizes, the system's buffers held
# 1.4 MB of them, otherwise 4.3 MB.
_RECEIVE_BYTES: Final = 64 * 1024
_SEGMENT_BYTES: Final = 8 * 1024

# The server itself receives the rest of a body of up to this size.
_SMALL_REST_BYTES: Final = 256 * 1024

# For how long a larger rest is still received, slowly, before the connection is closed. A client or
# proxy that sends at that moment could otherwise lose the response.
_DRAIN_SECONDS: Final = 0.5
_DRAIN_PAUSE_SECONDS: Final = 0.1

# The host's proxy encodes the percent sign of `%2F` again.
_ENCODED_SLASH: Final = re.compile(rb"%25(2[Ff])")

_log = logging.getLogger(__name__)


class _NoSynchronizer(base.RequestSynchronizer):
    def sync_route_params(self, request: Request, path_params: dict[str, str]) -> None:
        """Add no route parameters, because our app has its own routes."""


class WebRequest(metaclass=base.RequestTrackerMeta):
    """Registers the type of the HTTP function's request."""

    request_type = Request
    synchronizer = _NoSynchronizer()


class WebResponse(metaclass=base.ResponseTrackerMeta):
    """Registers the type of the HTTP function's response."""

    label = base.ResponseLabels.STANDARD
    response_type = Response


class WebApp(base.WebApp):
    """The ASGI app of the extension: it answers each request with the HTTP function's response."""

    def route(self, func: Callable[[Request], Awaitable[Response]]) -> Any:
        """Keep the worker's function, which waits for the HTTP function's response."""
        self._find_response = func
        return func

    def get_app(self) -> ASGIApp:
        """Return the app for the server."""
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the HTTP function, and send its response."""
        response = await self._find_response(Request(scope, receive, send))
        await response(scope, receive, send)


class WebServer(base.WebServer):
    """The server to which the host passes the requests. The worker calls the constructor."""

    async def serve(self) -> None:
        """Serve until the process ends."""
        config = uvicorn.Config(
            self.web_app,
            host=self.hostname,
            port=self.port,
            lifespan="off",
            ws="none",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        self.server = _Server(config)
        listener = socket.create_server((self.hostname, self.port), backlog=config.backlog)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        await self.server.serve([listener])


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to the language worker."""
        yield


class AppResponse(Response):
    """The response to one HTTP request: a call of our app, which sends it in parts."""

    def __init__(self, app: ASGIApp, durable: Durable) -> None:
        """Pass the Durable Functions client `durable` to the app, in the ASGI scope."""
        super().__init__()
        self._app = app
        self._durable = durable

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app. An error after the whole response is logged; an earlier one is raised.

        A request with an invalid Host header gets 400, without a call of the app.
        """
        exchange = _Exchange(scope["headers"], receive, send)
        if (outside := _outside_scope(scope)) is None:
            # Starlette reads the Host header too, so no route can answer such a request.
            problem = malformed("the Host header is not a host name or address")
            body = json.dumps(problem.document("/", None))
            refusal = Response(body, 400, media_type=PROBLEM_MEDIA_TYPE)
            await refusal(scope, exchange.receive, exchange.send)
            return
        outside["durable"] = self._durable
        try:
            async with asyncio.timeout(MAX_REQUEST_SECONDS):
                await self._app(outside, exchange.receive, exchange.send)
        # If a route fails, Starlette sends our 500 response and then raises the error again.
        except Exception:
            if not exchange.has_ended:
                raise
            _log.exception("a request failed because of an error in the gateway's code")


class _Exchange:
    """One request and its response. It closes the connection if much of the body is not read."""

    def __init__(self, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        is_large = announced_bytes(headers) > _SMALL_REST_BYTES
        self._has_more = is_large or b"transfer-encoding" in dict(headers)
        self.has_ended = False

    async def receive(self) -> Message:
        """Return the next part of the body, or that the caller has disconnected."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._has_more = False
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start" and self._has_more:
            MutableHeaders(scope=message)["connection"] = "close"
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.has_ended = True
            if self._has_more:
                await self._send({**message, "more_body": True})
                await self._drain()
                message = {"type": "http.response.body"}
        await self._send(message)

    async def _drain(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while self._has_more:
                    await self.receive()
                    await asyncio.sleep(_DRAIN_PAUSE_SECONDS)


def _outside_scope(scope: Scope) -> Scope | None:
    """Return the scope of a request as its caller sent it; None if the Host header is not valid.

    The host's proxy has replaced the Host header, and added headers. The scope may also contain
    keys of the framework that has received the request, which would confuse ours.
    """
    headers: list[tuple[bytes, bytes]] = []
    forwarded: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name.startswith(b"x-forwarded-"):
            # The host's proxy has added the last value.
            forwarded[name] = value.decode("latin-1").rpartition(",")[2].strip()
        elif name != b"x-ms-invocation-id":
            headers.append((name, value))
    given = next((value for name, value in headers if name == b"host"), None)
    host = forwarded.get(b"x-forwarded-host") or (given or b"").decode("latin-1")
    try:
        urlsplit(f"//{host}")
    except ValueError:
        return None
    if given is not None:
        outside = host.encode("latin-1")
        headers = [(name, outside if name == b"host" else value) for name, value in headers]
    raw_path = scope["raw_path"]
    if b"%" in raw_path:
        raw_path = _ENCODED_SLASH.sub(rb"%\1", raw_path)
    return {
        "asgi": scope.get("asgi"),
        "client": scope.get("client"),
        "http_version": scope.get("http_version"),
        "method": scope.get("method"),
        "server": scope.get("server"),
        "type": "http",
        "scheme": forwarded.get(b"x-forwarded-proto") or scope["scheme"],
        "path": unquote(raw_path.decode("latin-1")) or "/",
        "raw_path": raw_path,
        "query_string": scope["query_string"],
        "root_path": "",
        "headers": headers,
        "state": {},
    }
