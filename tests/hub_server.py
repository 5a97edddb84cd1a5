"""A small HTTP server on loopback with the URLs and redirects of the Hugging Face Hub."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class SeenRequest:
    """A request that the fake Hugging Face Hub or its storage has received."""

    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """A fake Hugging Face Hub and the storage of its files: two servers on different ports.

    The fake Hub answers `/ORG/NAME/resolve/COMMIT/FILE` with a redirect to the storage.

    Attributes:
        files: The content of each file, by its path ORG/NAME/resolve/COMMIT/FILE.
        token: The token that requests need, or None if the files are public.
        answer: A function that is called for each request to the fake Hub. It returns True if it
            has sent a response, and False if the fake Hub must send the usual response.
        serve: A function that answers each request to the storage, for example with only a part
            of the file. If it is None, the storage sends the whole file.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    answer: Callable[["FakeHub", BaseHTTPRequestHandler], bool] | None = None
    serve: Callable[[BaseHTTPRequestHandler, bytes], None] | None = None
    hub_requests: list[SeenRequest] = field(default_factory=list)
    storage_requests: list[SeenRequest] = field(default_factory=list)
    endpoint: str = ""
    storage: str = ""

    def add(self, repository: str, path: str, data: bytes) -> str:
        """Add a file to a repository of the fake Hub, in the commit whose hash is `COMMIT`.

        Return the location of the file as a model catalogue contains it: `hf:ORG/NAME@COMMIT/FILE`.
        """
        self.files[f"{repository}/resolve/{COMMIT}/{path}"] = data
        return f"hf:{repository}@{COMMIT}/{path}"

    def answer_hub(self, handler: BaseHTTPRequestHandler) -> None:
        self.hub_requests.append(SeenRequest(handler.path, dict(handler.headers.items())))
        if self.answer is not None and self.answer(self, handler):
            return
        given = handler.headers.get("authorization")
        if self.token is not None and given != f"Bearer {self.token}":
            respond(handler, 401, {"X-Error-Code": "GatedRepo"})
        elif unquote(handler.path.lstrip("/")) not in self.files:
            respond(handler, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            # The signature makes real addresses about as long as this.
            location = f"{self.storage}{handler.path}?signature={'s' * 2000}"
            respond(handler, 302, {"Location": location}, b"Found. Redirecting")

    def answer_storage(self, handler: BaseHTTPRequestHandler) -> None:
        self.storage_requests.append(SeenRequest(handler.path, dict(handler.headers.items())))
        data = self.files[unquote(handler.path.partition("?")[0].lstrip("/"))]
        if self.serve is not None:
            self.serve(handler, data)
        else:
            respond(handler, 200, {}, data)


def respond(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b""
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextlib.contextmanager
def run_hub() -> Iterator[FakeHub]:
    """Run a fake Hugging Face Hub and its storage until the `with` block ends."""
    hub = FakeHub()
    with _serve(hub.answer_hub) as hub.endpoint, _serve(hub.answer_storage) as hub.storage:
        yield hub


@contextlib.contextmanager
def _serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
