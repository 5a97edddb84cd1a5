"""Test that an OTLP endpoint receives a job's spans from gateway and worker, as one trace."""

from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collector import Collector, serve_collector
from tests.e2e.system import System, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def spans_by_service(collector: Collector, trace_id: str) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for _, body in list(collector.received):
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (
                each.value.string_value
                for each in group.resource.attributes
                if each.key == "service.name"
            )
            spans = [span for scope in group.scope_spans for span in scope.spans]
            found.setdefault(service, []).extend(
                span for span in spans if span.trace_id.hex() == trace_id
            )
    return {service: spans for service, spans in found.items() if spans}


def test_one_trace_reaches_the_otlp_endpoint(tmp_path: Path) -> None:
    with serve_collector() as collector:
        environment = {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_BSP_SCHEDULE_DELAY": "500",
            "WORKER_MODELS": "noop",
        }
        system = System(tmp_path / "data", environment=environment)
        try:
            system.start()
            trace_id = system.submit("noop", b"input").json()["trace_id"]

            def has_one_root() -> bool:
                found = spans_by_service(collector, trace_id)
                spans = [span for each in found.values() for span in each]
                ids = {span.span_id for span in spans}
                roots = [span for span in spans if span.parent_span_id not in ids]
                services = {"loosely-gateway", "loosely-worker"}
                return found.keys() == services and len(roots) == 1

            until(has_one_root, 30, "both programs have sent their spans")
        finally:
            system.stop()
        worker = {span.name for span in spans_by_service(collector, trace_id)["loosely-worker"]}
        assert "prepare" in worker, worker
