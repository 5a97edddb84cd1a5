"""A small HTTP server on loopback, whose responses a test chooses."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True)
class Request:
    """A request that the server has received. The names of the headers are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """The number of the connection, from 1."""


@dataclass(frozen=True)
class Response:
    """A response of the server."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def serve_http(
    answer: Callable[[Request], Response | None],
    port: int = 0,
    host: str = "127.0.0.1",
    *,
    is_keeping_alive: bool = False,
) -> Iterator[str]:
    """Serve until the `with` block ends, and yield the URL. None closes the connection."""
    connections = count(1)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if is_keeping_alive else "HTTP/1.0"
        # Otherwise the end of a response waits 40 ms for the peer's delayed acknowledgement.
        disable_nagle_algorithm = True
        timeout = 30.0

        def setup(self) -> None:
            super().setup()
            self.connection_number = next(connections)

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            request = Request(self.command, self.path, headers, body, self.connection_number)
            response = answer(request)
            if response is None:
                self.close_connection = True
                return
            self.send_response(response.status)
            for name, value in {"content-length": len(response.body), **response.headers}.items():
                self.send_header(name, str(value))
            with contextlib.suppress(OSError):
                self.end_headers()
                self.wfile.write(response.body)

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)
