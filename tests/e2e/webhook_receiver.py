"""A server that receives webhooks, and serves inputs."""

import base64
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OLD, NEW = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
SETTINGS = {
    "WEBHOOK_SECRETS": f"{NEW},{OLD}",
    "GUARD_ALLOW": "127.0.0.1",
}


class WebhookReceiver(http.server.ThreadingHTTPServer):
    """A server that receives webhooks by POST, and serves the files in `files` by GET."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.refused = 0
        self.files: dict[str, tuple[int, dict[str, str], bytes]] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebhookReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.received.append(
                ({name.lower(): value for name, value in self.headers.items()}, body)
            )
        else:
            self.server.refused += 1
        self._answer(status, {}, b"a secret of the receiver")

    def do_GET(self) -> None:
        self._answer(*self.server.files.get(self.path, (404, {}, b"")))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        pass


@contextmanager
def run_webhook_receiver() -> Iterator[WebhookReceiver]:
    server = WebhookReceiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
