"""Test the spans that the gateway exports."""

import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from contract.errors import InvalidSetting
from gateway.telemetry import GatewayTracing, make_tracer_provider
from tests.unit.gateway.conftest import RunningGateway, open_gateway

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}


@dataclass
class Traced:
    """A gateway, and an exporter that keeps the gateway's spans in memory."""

    gateway: RunningGateway
    exporter: InMemorySpanExporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


@pytest.fixture
async def traced(exporter: InMemorySpanExporter) -> AsyncIterator[Traced]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with open_gateway(GatewayTracing(provider)) as gateway:
        yield Traced(gateway, exporter)


def identity(span: ReadableSpan) -> str:
    assert span.context is not None
    return format(span.context.span_id, "016x")


def parent(span: ReadableSpan) -> str | None:
    return format(span.parent.span_id, "016x") if span.parent else None


async def test_message_continues_the_trace_of_the_caller(traced: Traced) -> None:
    headers = {"content-type": "text/plain", **CALLER}
    answer = await traced.gateway.submit(content=b"x", headers=headers)
    assert answer.status_code == 202
    request = traced.one("POST /v1/models/{model}/jobs")
    sending = traced.one("send noop")
    assert parent(request) == SPAN_ID
    assert request.kind is SpanKind.SERVER
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 202
    assert request.attributes["url.path"] == "/v1/models/noop/jobs"
    assert sending.kind is SpanKind.PRODUCER
    assert parent(sending) == identity(request)
    ((_, message),) = traced.gateway.queues.sent
    properties = message.properties
    assert properties == {"traceparent": f"00-{TRACE_ID}-{identity(sending)}-01"}
    assert answer.json()["trace_id"] == TRACE_ID
    assert answer.headers["traceresponse"] == f"00-{TRACE_ID}-{identity(request)}-01"


async def test_request_without_a_trace_begins_one(traced: Traced) -> None:
    answer = await traced.gateway.http.get("/v1/models")
    request = traced.one("GET /v1/models")
    assert parent(request) is None
    assert identity(request) in answer.headers["traceresponse"]


async def test_span_names_contain_no_ids_or_tokens(traced: Traced) -> None:
    job_id = await traced.gateway.accept()
    await traced.gateway.http.get(f"/v1/jobs/{job_id}?wait=0")
    await traced.gateway.http.get(f"/v1/jobs/{job_id}/reply?token=secret-token")
    await traced.gateway.http.get("/nowhere/at-all")
    for span in traced.exporter.get_finished_spans():
        assert job_id not in span.name
        assert "nowhere" not in span.name
        assert "secret-token" not in span.to_json()


async def test_refused_request_is_no_error(traced: Traced) -> None:
    await traced.gateway.http.get("/v1/models/unknown")
    (span,) = traced.exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.UNSET


async def test_unsampled_trace_has_no_spans(traced: Traced) -> None:
    caller = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-00"}
    await traced.gateway.http.get("/v1/models", headers=caller)
    assert traced.exporter.get_finished_spans() == ()


def test_exporters_are_found_by_name() -> None:
    provider = make_tracer_provider(["console"])
    assert isinstance(provider, TracerProvider)
    assert provider.resource.attributes["service.name"] == "loosely-gateway"
    provider.shutdown()
    with pytest.raises(InvalidSetting, match="OTEL_TRACES_EXPORTER"):
        make_tracer_provider(["oltp"])


def test_no_exporters_give_no_provider() -> None:
    assert make_tracer_provider([]) is None


async def test_accepted_and_refused_requests_are_logged(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    text: dict[str, Any] = {"content": b"x", "headers": {"content-type": "text/plain"}}
    accepted = await gateway.submit(**text)
    refused = await gateway.submit(params={"a\nb": "1"}, **text)
    lines = [line for line in caplog.messages if "traceparent" in line]
    job = accepted.json()
    assert (
        f"job {job['id']} of the model noop was accepted [traceparent 00-{job['trace_id']}-"
        in lines[0]
    )
    assert "the request 'POST' '/v1/models/noop/jobs' was refused: malformed-request: " in lines[1]
    assert f"00-{refused.json()['trace_id']}-" in lines[1]
    assert all("\n" not in line for line in lines)
