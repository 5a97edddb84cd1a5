"""Test that spans that arrive by OTLP are stored in a file, and that traces are read from it."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from loosely.local.trace_files import FILE_NAME, TraceReceiver, read_trace


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[TraceReceiver]:
    opened = TraceReceiver(tmp_path / "traces")
    opened.start()
    yield opened
    opened.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_spans_of_one_trace_that_an_otlp_exporter_sent_are_read_as_a_tree(
    receiver: TraceReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    for name, value in receiver.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    provider = TracerProvider(resource=Resource({"service.name": "a-service"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("outer", attributes={"a": 1}) as outer:
        with tracer.start_as_current_span("first"):
            pass
        with pytest.raises(ValueError, match="wrong"), tracer.start_as_current_span("second"):
            raise ValueError("wrong")
    with tracer.start_as_current_span("of another trace"):
        pass
    (root,) = read_trace(tmp_path / "traces", f"{outer.get_span_context().trace_id:032x}")
    assert (root.service, root.name, root.begin_ms) == ("a-service", "outer", 0.0)
    assert root.attributes == {"a": "1"}
    children = [(each.name, each.is_error) for each in root.children]
    assert children == [("first", False), ("second", True)]
    assert root.duration_ms >= sum(each.duration_ms for each in root.children)


@pytest.mark.parametrize(("path", "status"), [("/v1/traces", 400), ("/v1/metrics", 404)])
def test_the_trace_receiver_refuses_a_request_without_spans(
    receiver: TraceReceiver, tmp_path: Path, path: str, status: int
) -> None:
    url = receiver.variables["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert httpx.post(f"{url}{path}", content=b"\xff\xff no protobuf").status_code == status
    assert not (tmp_path / "traces").exists()


def test_the_trace_receiver_refuses_requests_of_web_pages(receiver: TraceReceiver) -> None:
    url = receiver.variables["OTEL_EXPORTER_OTLP_ENDPOINT"]
    answer = httpx.post(f"{url}/v1/traces", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


def test_the_trace_receiver_refuses_a_body_that_inflates_to_more_than_16_mib(
    receiver: TraceReceiver,
) -> None:
    url = receiver.variables["OTEL_EXPORTER_OTLP_ENDPOINT"]
    bomb, headers = gzip.compress(bytes(17 * 1024 * 1024)), {"content-encoding": "gzip"}
    assert httpx.post(f"{url}/v1/traces", content=bomb, headers=headers).status_code == 400


def test_the_trace_receiver_refuses_a_negative_length(receiver: TraceReceiver) -> None:
    address = urlsplit(receiver.variables["OTEL_EXPORTER_OTLP_ENDPOINT"])
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n")
        assert b"404" in connection.recv(100)


def test_an_incomplete_line_in_the_trace_file_is_skipped(tmp_path: Path) -> None:
    trace_id = "0" * 31 + "1"
    span = {
        "trace_id": trace_id,
        "span_id": "2",
        "parent_id": "9",
        "service": "s",
        "name": "n",
        "start_ns": 10**6,
        "end_ns": 3 * 10**6,
        "is_error": False,
        "attributes": {},
    }
    line = json.dumps(span)
    (tmp_path / FILE_NAME).write_text(f"{line}\n{line[:60]}\n", encoding="utf-8")
    (root,) = read_trace(tmp_path, trace_id)
    assert (root.name, root.duration_ms) == ("n", 2.0)
    assert read_trace(tmp_path, "f" * 32) == []
