"""Health over HTTP: /live says that the loops turn, /ready that jobs are being taken."""

import http.server
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Whether all is well, and the details as a JSON object."""


class Health(http.server.ThreadingHTTPServer):
    """A tiny server on a thread of its own: busy loops elsewhere do not hold it back."""

    daemon_threads = True

    def __init__(self, host: str, port: int, checks: Mapping[str, Check]) -> None:
        """Listen at once; OSError where the port is taken. `checks` are by path."""
        self._checks = checks
        super().__init__((host, port), _Handler)

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, name="health", daemon=True).start()

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body for a path."""
        if (check := self._checks.get(path)) is None:
            return 404, {"paths": sorted(self._checks)}
        good, details = check()
        return (200 if good else 503), {"ok": good, **details}


class _Handler(http.server.BaseHTTPRequestHandler):
    # A client that sends nothing must not keep a thread.
    timeout = 5.0
    server: Health
    server_version = "loosely-worker"
    sys_version = ""

    def do_GET(self) -> None:
        status, document = self.server.answer(self.path.partition("?")[0])
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Probes come every second and say nothing new."""
