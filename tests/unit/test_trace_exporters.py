"""Test that environment variables set whether and where gateway and worker export spans."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from gateway.telemetry import make_tracer_provider
from tests.collector import Collector, serve_collector
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
            # The statistics of the SDK would be sent when the process ends, to a closed port.
            "APPLICATIONINSIGHTS_SDKSTATS_DISABLED": "true",
            "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
        },
        "/v2.1/track",
    ),
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with serve_collector() as server:
        yield server


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize("program", ["gateway", "worker"])
def test_exporter_sends_spans(
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
