"""Test that environment variables set whether and where gateway and worker export spans."""

import gzip
import http.server
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.telemetry import make_tracer_provider
from worker.telemetry.setup import tracer_provider

# For each exporter: its environment variables, and the path that it sends spans to.
EXPORTERS: Final = {
    "otlp": ({"OTEL_EXPORTER_OTLP_ENDPOINT": "{address}"}, "/v1/traces"),
    "azure_monitor_opentelemetry_exporter": (
        {
            "APPLICATIONINSIGHTS_CONNECTION_STRING": (
                "InstrumentationKey=00000000-0000-0000-0000-000000000001;"
                "IngestionEndpoint={address}/"
            ),
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        },
        "/v2.1/track",
    ),
}


class Collector(http.server.ThreadingHTTPServer):
    """An HTTP server that accepts all telemetry, and stores the path and body of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[tuple[str, bytes]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, body))
        answer = b'{"itemsReceived": 1, "itemsAccepted": 1, "errors": []}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(30)


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("program", ["gateway", "worker"])
def test_each_exporter_sends_the_spans_of_the_gateway_and_the_worker(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, name: str, program: str
) -> None:
    variables, path = EXPORTERS[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value.format(address=collector.address))
    create: Any = make_tracer_provider if program == "gateway" else tracer_provider
    provider = create([name])
    with provider.get_tracer("test").start_as_current_span("the span of a test"):
        pass
    provider.shutdown()
    bodies = [body for found, body in collector.received if found == path]
    assert any(b"the span of a test" in body for body in bodies), collector.received
    assert any(f"loosely-{program}".encode() in body for body in bodies)
