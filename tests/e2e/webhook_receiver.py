"""A server that receives webhooks, and serves inputs."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_server import Request, Response, serve_http

OLD, NEW = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
SETTINGS = {"WEBHOOK_SECRETS": f"{NEW},{OLD}", "GUARD_ALLOW": "127.0.0.1"}


@dataclass
class WebhookReceiver:
    """A server that receives webhooks by POST, and serves the files in `files` by GET."""

    address: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    refused: int = 0
    files: dict[str, Response] = field(default_factory=dict)

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def answer(self, request: Request) -> Response:
        if request.method == "GET":
            return self.files.get(request.path, Response(404))
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.received.append((request.headers, request.body))
        else:
            self.refused += 1
        return Response(status, b"a secret of the receiver")


@contextmanager
def run_webhook_receiver() -> Iterator[WebhookReceiver]:
    receiver = WebhookReceiver()
    with serve_http(receiver.answer) as receiver.address:
        yield receiver
