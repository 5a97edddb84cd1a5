"""The worker's HTTP server: /live, /ready and whatever else its pages are, such as /metrics.

Protocol: HTTP/1.0, one request a connection, GET and HEAD.
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

_log = logging.getLogger(__name__)

# Probes and scrapes take milliseconds. Who takes longer is slow on purpose or broken, and must
# keep neither a thread for long nor, in numbers, anybody else out.
_LONGEST_CONNECTION_SECONDS = 5.0
_MAX_CONNECTIONS = 32

Check = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether all is well, and the details as a JSON object."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[str], Answer]
"""What a path answers to a request with this Accept header."""


def checked(check: Check) -> Page:
    """The page of a check: 200 or 503, with its details in JSON."""

    def page(accept: str) -> Answer:
        good, details = check()
        return _json(200 if good else 503, {"ok": good, **details})

    return page


def scraped(exposition: Callable[[str], tuple[bytes, str]]) -> Page:
    """The page of an exposition of figures, given its body and content type."""

    def page(accept: str) -> Answer:
        body, content_type = exposition(accept)
        return Answer(200, content_type, body)

    return page


class Health(http.server.ThreadingHTTPServer):
    """A tiny server on threads of its own: busy loops elsewhere do not hold it back."""

    daemon_threads = True
    request_queue_size = _MAX_CONNECTIONS

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, Page],
        longest_seconds: float = _LONGEST_CONNECTION_SECONDS,
    ) -> None:
        """Listen at once; OSError where the port is taken. `pages` are by path."""
        self._pages = pages
        self._longest_seconds = longest_seconds
        # In order of arrival. One thread adds, each connection's own removes: both are atomic.
        self._open: dict[socket.socket, float] = {}
        super().__init__((host, port), _Handler)

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()

    def answer(self, path: str, accept: str = "") -> Answer:
        """The answer for a path."""
        if (page := self._pages.get(path)) is None:
            return _json(404, {"paths": sorted(self._pages)})
        try:
            return page(accept)
        except Exception:  # noqa: BLE001  the edge: a probe gets an answer whatever fails behind it
            _log.exception("%s failed", path)
            return _json(500, {"ok": False, "reason": "this page failed; the logs tell why"})

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection; where there are too many, the oldest goes for it."""
        if len(self._open) >= _MAX_CONNECTIONS:
            for oldest in tuple(self._open)[:1]:
                self._open.pop(oldest, None)
                _hang_up(oldest)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The connection is done."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on who takes too long; the server calls this twice a second."""
        latest = time.monotonic() - self._longest_seconds
        for connection, since in tuple(self._open.items()):
            if since < latest:
                _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's business."""
        _log.debug("a connection broke", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _LONGEST_CONNECTION_SECONDS
    server: Health
    server_version = "loosely-worker"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        answer = self.server.answer(path, ",".join(self.headers.get_all("accept", [])))
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("content-length", str(len(answer.body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815  the base's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Probes come every second and say nothing new."""


def _json(status: int, document: Mapping[str, Any]) -> Answer:
    return Answer(status, "application/json", json.dumps(document).encode())


def _hang_up(connection: socket.socket) -> None:
    # Its thread is in a call on it, which ends so; that thread also closes it.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
