"""Serve the host's main port: HTTP triggers, the durable management API and the admin API."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from emulator.functions.asgi import (
    MAX_BODY_BYTES,
    Application,
    BodyTooLarge,
    ClientGone,
    Headers,
    Receive,
    Scope,
    Send,
    declared_bytes,
    read_body,
    respond,
    respond_empty,
)
from emulator.functions.durable.management import DURABLE_PATH
from emulator.functions.errors import AppUnavailable, FunctionFailure
from emulator.functions.exchange import Exchange, ForwardedBodyTooLarge, ForwardError
from emulator.functions.invoker import Invoker
from emulator.functions.routes import RouteTable
from emulator.functions.settings import HostFile

_log = logging.getLogger("functions.host")
_OWN_PATHS = ("/admin", "/runtime")
_CONNECTION_HEADERS = frozenset({b"connection", b"content-length", b"keep-alive", b"te"}) | {
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# A body would be read as the next response, except for 205, whose body Azure's host drops.
_WITHOUT_BODY = {204, 205, 304, *range(100, 200)}
_HOST = re.compile(rb"[\w.~%!$&'()*+,;=:\[\]-]*")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of the requests to functions.

    Beyond `max_outstanding` (None: unlimited), requests get status 429. A request of any path with
    more than `max_body_bytes` gets 500.
    """

    max_outstanding: int | None = None
    max_body_bytes: int = MAX_BODY_BYTES

    @classmethod
    def of(cls, host_file: HostFile, settings: Mapping[str, str]) -> "RequestLimits":
        """Return the limits of host.json and the app settings; as in Azure, others are ignored."""
        try:
            body_bytes = int(settings.get("FUNCTIONS_REQUEST_BODY_SIZE_LIMIT", ""))
        except ValueError:
            body_bytes = MAX_BODY_BYTES
        return cls(host_file.max_outstanding_requests, body_bytes)


class WebApplication:
    """The ASGI application of the main port."""

    def __init__(
        self,
        routes: RouteTable,
        invoker: Invoker,
        admin: Application,
        management: Application | None,
        limits: RequestLimits,
    ) -> None:
        self._routes = routes
        self._invoker = invoker
        self._admin = admin
        self._management = management
        self._limits = limits
        self._outstanding = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one HTTP request."""
        if scope["type"] != "http":
            return
        if not _has_host(scope):
            await respond_empty(send, 400)
            return
        if declared_bytes(scope) > self._limits.max_body_bytes:
            await self._refuse_body(send)
            return
        path: str = scope["path"]
        if path.startswith(_OWN_PATHS) and path.split("/", 2)[1] in ("admin", "runtime"):
            await self._serve_host_path(path, scope, receive, send)
            return
        found = self._routes.find(scope["method"], scope["raw_path"].decode("latin-1"))
        if found is not None:
            await self._invoke_within_limit(found, scope, receive, send)
        elif path == "/":
            await self._admin(scope, receive, send)
        else:
            await respond_empty(send, 404)

    async def _serve_host_path(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path.startswith(DURABLE_PATH):
            if self._management is None:
                await respond_empty(send, 404)
                return
            scope["root_path"] = DURABLE_PATH
            await self._management(scope, receive, send)
        else:
            await self._admin(scope, receive, send)

    async def _invoke_within_limit(
        self, found: tuple[str, dict[str, str]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        limit = self._limits.max_outstanding
        if limit is not None and self._outstanding >= limit:
            await respond_empty(send, 429)
            return
        self._outstanding += 1
        try:
            await self._invoke(found, scope, receive, send)
        finally:
            self._outstanding -= 1

    async def _invoke(
        self, found: tuple[str, dict[str, str]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        name, route = found
        if self._invoker.has_web_extension:
            await self._invoke_web(
                name, route, Exchange(scope, receive, send, self._limits.max_body_bytes)
            )
            return
        try:
            body = await read_body(scope, receive, self._limits.max_body_bytes)
        except BodyTooLarge:
            await self._refuse_body(send)
            return
        except ClientGone:
            return
        if not any(header == b"content-length" for header, _ in scope["headers"]):
            body = b""  # Azure's host passes an empty body if Content-Length is missing
        request, trace = _request_fields(scope, route)
        try:
            result = await self._invoker.invoke_http(name, request, trace, body)
        except FunctionFailure as failure:
            _log.debug("Functions.%s failed: %s", name, failure)
            await respond_empty(send, 500)
            return
        except AppUnavailable as gone:
            _log.warning("Functions.%s did not respond: %s", name, gone)
            await respond_empty(send, 503 if gone.not_started else 502)
            return
        payload = b"" if result.status in _WITHOUT_BODY else result.body
        headers = _response_headers(result.status, result.headers, payload)
        if headers is None:
            _log.error(
                "Functions.%s returned a header or a status that HTTP does not allow; the client "
                "receives status 500",
                name,
            )
            await respond_empty(send, 500)
            return
        await respond(send, result.status, headers, payload)

    async def _invoke_web(self, name: str, route: dict[str, str], exchange: Exchange) -> None:
        """Pass a request to the app's web extension, and the response to the client."""
        if not all(value.isascii() for _, value in exchange.scope["headers"]):
            await respond_empty(exchange.send, 400)
            return
        if not await exchange.wait_for_body():
            return
        status = 500
        try:
            await self._invoker.invoke_web(name, route, _trace(exchange.scope), exchange)
        except FunctionFailure as failure:
            _log.debug("Functions.%s failed: %s", name, failure)
        except AppUnavailable as gone:
            _log.warning("Functions.%s did not respond: %s", name, gone)
            status = 503 if gone.not_started else 502
        except ForwardError as error:
            if isinstance(error, ForwardedBodyTooLarge):
                self._log_large_body()
            _log.warning("Functions.%s failed: %s", name, error)
            status = error.status
        if not exchange.is_started:
            await respond_empty(exchange.send, status)
        elif not exchange.is_complete:
            await exchange.abort()

    async def _refuse_body(self, send: Send) -> None:
        self._log_large_body()
        await respond_empty(send, 500)

    def _log_large_body(self) -> None:
        _log.error(
            "Request body too large. The max request body size is %d bytes.",
            self._limits.max_body_bytes,
        )


def _has_host(scope: Scope) -> bool:
    """Return whether the request has one valid Host header (RFC 9112, section 3.2)."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if not hosts:
        return bool(scope["http_version"] == "1.0")
    return len(hosts) == 1 and _HOST.fullmatch(hosts[0]) is not None


def _trace(scope: Scope) -> list[str] | None:
    """Return the W3C trace context of a request, or None."""
    headers = dict(scope["headers"])
    parent = headers.get(b"traceparent")
    if parent is None:
        return None
    return [parent.decode("latin-1"), headers.get(b"tracestate", b"").decode("latin-1")]


def _request_fields(scope: Scope, route: dict[str, str]) -> tuple[list[object], list[str] | None]:
    """Return the method, URL, headers, query and route values, and the trace context or None."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    query: dict[str, str] = {}
    query_string: bytes = scope["query_string"]
    target = scope["raw_path"].decode("latin-1")
    if query_string:
        text = query_string.decode("latin-1")
        target = f"{target}?{text}"
        for name, value in parse_qsl(text):  # as in Azure's host, without empty values
            query[name] = f"{query[name]},{value}" if name in query else value
    host = headers.get("host") or "localhost"
    parent = headers.get("traceparent")
    trace = None if parent is None else [parent, headers.get("tracestate", "")]
    url = f"{scope['scheme']}://{host}{target}"
    return [scope["method"], url, headers, query, route], trace


def _response_headers(status: int, headers: list[list[str]], body: bytes) -> Headers | None:
    """Return the headers to send with a function's response, without those of the connection.

    Return None if HTTP does not allow the status or a header.
    """
    if not 100 <= status <= 999 or status == 101:
        return None
    result: Headers = []
    declared_bytes: bytes | None = None
    for name, value in headers:
        try:
            raw_name, raw_value = name.lower().encode("ascii"), value.encode("latin-1")
        except UnicodeEncodeError:
            return None
        if not _TOKEN.fullmatch(raw_name) or _FORBIDDEN_IN_VALUE.search(raw_value):
            return None
        if raw_name == b"content-length":
            declared_bytes = raw_value
        if raw_name not in _CONNECTION_HEADERS:
            result.append((raw_name, raw_value))
    if status < 200 or status in (204, 304):
        return result
    # In the response to HEAD, Content-Length is the length that the body would have.
    length = declared_bytes if not body and declared_bytes is not None else b"%d" % len(body)
    result.append((b"content-length", length if length.isdigit() else b"0"))
    return result
