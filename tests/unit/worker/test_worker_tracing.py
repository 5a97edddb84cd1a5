"""Test the spans that the worker exports for a job."""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from contract.errors import InvalidSetting
from tests.unit.worker.received import locked_message
from worker.brokers.port import LockedMessage
from worker.telemetry.recording import JobSpan, JobTracing
from worker.telemetry.setup import flush, tracer_provider

TRACE_ID, SPAN_ID = "ab" * 16, "cd" * 8
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
ENQUEUED_AT = datetime(2026, 1, 1, 12, 0, 0, 900_000, tzinfo=UTC)


class Exported:
    """Creates a worker's trace spans, and keeps the exported spans in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = JobTracing(self.provider)

    def job(self, job_id: str = "job-1", traceparent: str = SAMPLED) -> JobSpan:
        return self.tracing.start_job_span("classifier", "images", job_id, delivery(traceparent))

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def exported() -> Iterator[Exported]:
    exported = Exported()
    yield exported
    exported.provider.shutdown()


def delivery(traceparent: str) -> LockedMessage:
    properties = {"traceparent": traceparent, "tracestate": "a=b"} if traceparent else {}
    return locked_message("job-1", delivery_count=1, enqueued_at=ENQUEUED_AT, properties=properties)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or MappingProxyType({}))


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def test_job_span_links_to_the_requests_span(exported: Exported) -> None:
    job = exported.job()
    job.end_span("succeeded", {"loosely.batch_size": 2})
    span = exported.one("process images")
    assert span.context is not None
    assert span.parent is not None
    assert job.trace_id == TRACE_ID == format(span.context.trace_id, "032x")
    assert format(span.parent.span_id, "016x") == SPAN_ID
    assert linked(span) == [int(SPAN_ID, 16)]
    assert span.context.trace_state.get("a") == "b"
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "images",
        "messaging.message.id": "job-1",
        "messaging.message.conversation_id": "job-1",
        "messaging.servicebus.message.delivery_count": 2,
        "messaging.servicebus.message.enqueued_time": int(ENQUEUED_AT.timestamp()),
        "loosely.model": "classifier",
        "loosely.outcome": "succeeded",
        "loosely.batch_size": 2,
    }


def test_steps_are_children_of_the_job_span(exported: Exported) -> None:
    job = exported.job()
    with job.record_step("prepare"):
        assert SPAN_ID not in exported.tracing.headers()["traceparent"]
        assert TRACE_ID in exported.tracing.headers()["traceparent"]
    with job.record_step("reply", calls_out=True):
        pass
    job.end_span("succeeded", {})
    parent = identity(exported.one("process images"))
    for name in ("prepare", "reply"):
        step = exported.one(name)
        assert step.parent is not None
        assert step.parent.span_id == parent
    assert exported.tracing.headers() == {}


def test_each_job_of_a_batch_has_an_inference_span(exported: Exported) -> None:
    traces = [f"00-{number * 32}-{SPAN_ID}-01" for number in "123"]
    jobs = [exported.job(f"job-{trace[3]}", trace) for trace in traces]
    with exported.tracing.record_batch("classifier", jobs):
        assert trace.get_current_span().is_recording(), (
            "spans that the model's code creates become children"
        )
    for job in jobs:
        job.end_span("succeeded", {})
    first, second, third = exported.named("inference")
    parents = [identity(span) for span in exported.named("process images")]
    assert linked(first) == parents
    assert linked(second) == linked(third) == [identity(first)]
    inferences = (first, second, third)
    assert [span.parent.span_id for span in inferences if span.parent] == parents
    assert {attributes(span)["loosely.batch_size"] for span in inferences} == {3}
    assert second.start_time is not None
    assert first.start_time is not None
    assert abs(second.start_time - first.start_time) < 1e9


def test_span_of_a_failed_batch_has_the_error(exported: Exported) -> None:
    def failing() -> None:
        with exported.tracing.record_batch("classifier", [exported.job()]):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert exported.one("inference").status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [("inference-failed", True), ("expired", True), ("handed-back", False), ("cancelled", False)],
)
def test_only_failed_jobs_have_the_error_status(
    exported: Exported, outcome: str, failed: bool
) -> None:
    exported.job().end_span(outcome, {})
    span = exported.one("process images")
    assert (span.status.status_code is StatusCode.ERROR) is failed
    assert attributes(span).get("error.type") == (outcome if failed else None)


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-0-0-00"])
def test_message_without_a_trace_starts_one(exported: Exported, traceparent: str) -> None:
    job = exported.job(traceparent=traceparent)
    job.end_span("succeeded", {})
    span = exported.one("process images")
    assert span.parent is None
    assert linked(span) == []
    assert len(job.trace_id) == 32


def test_unsampled_trace_is_not_exported(exported: Exported) -> None:
    job = exported.job(traceparent=SAMPLED[:-1] + "0")
    with job.record_step("prepare"), exported.tracing.record_batch("classifier", [job]):
        pass
    job.end_span("succeeded", {})
    assert exported.spans() == []
    assert job.trace_id == TRACE_ID


def test_no_provider_means_no_spans() -> None:
    tracing = JobTracing()
    job = tracing.start_job_span("classifier", "images", "job-1", delivery(SAMPLED))
    with job.record_step("prepare"), tracing.record_batch("classifier", [job]):
        assert tracing.headers() == {}
    job.end_span("succeeded", {})
    assert job.trace_id == TRACE_ID


def test_exporters_are_found_by_name() -> None:
    provider = tracer_provider(["console"])
    assert provider is not None
    assert provider.resource.attributes["service.name"] == "loosely-worker"
    with (
        JobTracing(provider)
        .start_job_span("noop", "quick", "job-1", delivery(SAMPLED))
        .record_step("prepare")
    ):
        assert trace.get_current_span().is_recording()
    flush(provider)


def test_no_exporters_mean_no_provider() -> None:
    assert tracer_provider([]) is None
    flush(None)


def test_unknown_exporter_is_named() -> None:
    with pytest.raises(InvalidSetting, match="no installed package provides the exporter 'oltp'"):
        tracer_provider(["oltp"])
