"""An HTTP server that receives telemetry, for tests of exporters."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_server import Request, Response, serve_http


@dataclass
class Collector:
    """A server that accepts all telemetry, and stores the path and body of each request."""

    address: str = ""
    received: list[tuple[str, bytes]] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        is_compressed = request.headers.get("content-encoding") == "gzip"
        body = gzip.decompress(request.body) if is_compressed else request.body
        self.received.append((request.path, body))
        accepted = b'{"itemsReceived": 1, "itemsAccepted": 1, "errors": []}'
        return Response(200, accepted, {"content-type": "application/json"})


@contextmanager
def serve_collector() -> Iterator[Collector]:
    collector = Collector()
    with serve_http(collector.answer) as collector.address:
        yield collector
