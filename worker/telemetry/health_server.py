"""The worker's HTTP server for /live, /ready, /started and /metrics.

The server supports HTTP/1.0 with one request per connection, and the methods GET and HEAD.
"""

import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from contract.guard import is_loopback

_log = logging.getLogger(__name__)

# Probes and scrapes take milliseconds. A connection that lasts longer is broken or hostile. It is
# closed, so that it does not occupy a thread or block other connections.
_LONGEST_CONNECTION_SECONDS = 5.0
_MAX_CONNECTIONS = 32

Check = Callable[[], tuple[bool, Mapping[str, Any]]]
"""The type of a check: it returns whether it succeeded, and the details as a JSON object."""


@dataclass(frozen=True, slots=True)
class HealthResponse:
    """An HTTP response of the health server."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[str], HealthResponse]
"""The type of a function that returns the response for one path.

The argument is the request's Accept header.
"""


def check_page(check: Check) -> Page:
    """Return a page with the check's details as JSON, and status 200 or 503."""

    def page(accept: str) -> HealthResponse:
        good, details = check()
        return _json(200 if good else 503, {"ok": good, **details})

    return page


def metrics_page(exposition: Callable[[str], tuple[bytes, str]]) -> Page:
    """Return a page with the body and content type of an exposition for an Accept header."""

    def page(accept: str) -> HealthResponse:
        body, content_type = exposition(accept)
        return HealthResponse(200, content_type, body)

    return page


class HealthServer(http.server.ThreadingHTTPServer):
    """A small HTTP server with its own threads, which busy threads do not delay."""

    daemon_threads = True
    request_queue_size = _MAX_CONNECTIONS

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        longest_seconds: float = _LONGEST_CONNECTION_SECONDS,
    ) -> None:
        """Bind the port, 0 for any. Raises OSError if it is in use."""
        self._pages = pages
        self._longest_seconds = longest_seconds
        # In order of arrival. One thread adds entries, and each connection's thread removes its own
        # entry. Both operations are atomic.
        self._open: dict[socket.socket, float] = {}
        self.is_local = _is_local(f"[{host}]" if ":" in host else host)
        """Whether only this machine can connect.

        A web page whose name resolves to 127.0.0.1 (DNS rebinding) must not read the metrics.
        """
        super().__init__((host, port), _Handler)

    def start(self) -> None:
        """Start the thread that accepts connections."""
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()

    def respond(self, path: str, accept: str = "") -> HealthResponse:
        """Return the response for a path and an Accept header; status 404 for an unknown path."""
        if (page := self._pages.get(path)) is None:
            return _json(404, {"paths": sorted(self._pages)})
        try:
            return page(accept)
        except Exception:  # noqa: BLE001  a probe gets a response in any case
            _log.exception("the health check %s raised an error", path)
            return _json(
                500, {"ok": False, "reason": "the check raised an error; see the worker's logs"}
            )

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection. If too many connections are open, close the oldest one first."""
        if len(self._open) >= _MAX_CONNECTIONS:
            for oldest in tuple(self._open)[:1]:
                self._open.pop(oldest, None)
                _shut_down(oldest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Remove a connection from the list of open connections, and close its socket."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that have lasted too long. The base class calls this twice a second."""
        latest = time.monotonic() - self._longest_seconds
        for connection, since in tuple(self._open.items()):
            if since < latest:
                _shut_down(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of a connection at debug level. Usually the client has disconnected."""
        _log.debug("a connection to the health server was interrupted", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _LONGEST_CONNECTION_SECONDS
    server: HealthServer
    server_version = "loosely-worker"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.server.is_local and not all(map(_is_local, self.headers.get_all("host", []))):
            response = _json(421, {"reason": "only requests for localhost are answered"})
        else:
            response = self.server.respond(path, ",".join(self.headers.get_all("accept", [])))
        self.send_response(response.status)
        self.send_header("content-type", response.content_type)
        self.send_header("content-length", str(len(response.body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_GET  # noqa: N815  the base's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Log nothing, because probes send a request every second."""


def _json(status: int, document: Mapping[str, Any]) -> HealthResponse:
    return HealthResponse(status, "application/json", json.dumps(document).encode())


def _is_local(authority: str) -> bool:
    try:
        name = urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return False
    return is_loopback(name) or name.endswith(".localhost")


def _shut_down(connection: socket.socket) -> None:
    # This ends the call of the connection's thread, which then closes the socket.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
