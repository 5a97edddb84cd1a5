"""Receive the spans of traces, keep them in a file, and read them again.

With `loosely up --traces`, the gateway and the worker send their spans by OTLP, the protocol of
OpenTelemetry, to a server in `loosely up`. The server appends one JSON object for each span to
`traces.jsonl`.
"""

import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

FILE_NAME: Final = "traces.jsonl"
_MAX_FILE_BYTES: Final = 32 * 1024 * 1024
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_PATH: Final = "/v1/traces"


class TraceReceiver:
    """A server on loopback that receives spans by OTLP over HTTP and appends them to a file.

    If the file becomes too large, it is renamed to `older-traces.jsonl`, and a new file is started.
    The renamed file replaces an earlier file with this name.
    """

    def __init__(self, folder: Path) -> None:
        """Bind a free port. ``folder`` will contain the file with the spans."""
        self._file = folder / FILE_NAME
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Receive one request of an OTLP exporter, and respond to it."""
                length = self.headers.get("content-length") or "0"
                size_bytes = int(length) if length.isdecimal() else _MAX_BODY_BYTES + 1
                # Browsers send Origin with each POST of a web page, exporters never do.
                if "origin" in self.headers:
                    self.close_connection = True
                    self._respond(HTTPStatus.FORBIDDEN)
                    return
                if self.path != _PATH or size_bytes > _MAX_BODY_BYTES:
                    self.close_connection = True
                    self._respond(HTTPStatus.NOT_FOUND)
                    return
                body: bytes | None = self.rfile.read(size_bytes)
                if body and self.headers.get("content-encoding") == "gzip":
                    body = _inflate(body)
                self._respond(HTTPStatus.BAD_REQUEST if body is None else receiver.add(body))

            def _respond(self, status: HTTPStatus) -> None:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Do not log the requests."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which a program sends its spans to this server."""
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }

    def start(self) -> None:
        """Serve in a thread until the process ends."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop the server, and close its port."""
        self._server.shutdown()
        self._server.server_close()

    def add(self, body: bytes) -> HTTPStatus:
        """Append the spans of an OTLP request to the file. Return the status of the response.

        If the file cannot be written, for example on a full disk, the spans are lost.
        """
        # Needed only with --traces.
        from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415
            DecodeError,
        )

        try:
            lines = "".join(f"{json.dumps(span)}\n" for span in _decode(body))
        except DecodeError:
            return HTTPStatus.BAD_REQUEST
        try:
            with self._lock:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                if self._file.exists() and self._file.stat().st_size > _MAX_FILE_BYTES:
                    self._file.replace(self._file.with_name(f"older-{FILE_NAME}"))
                with self._file.open("a", encoding="utf-8") as output:
                    output.write(lines)
        except OSError:
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.OK


def _inflate(body: bytes) -> bytes | None:
    """Decompress a gzip body. Return ``None`` if it is invalid or has more than 16 MiB."""
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = inflater.decompress(body, _MAX_BODY_BYTES)
    except zlib.error:
        return None
    return content if inflater.eof else None


def _decode(body: bytes) -> Iterator[dict[str, Any]]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceRequest,
    )

    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield {
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_id": span.parent_span_id.hex() or None,
                    "service": resource.get("service.name", ""),
                    "name": span.name,
                    "start_ns": span.start_time_unix_nano,
                    "end_ns": span.end_time_unix_nano,
                    "is_error": span.status.code == span.status.STATUS_CODE_ERROR,
                    "attributes": _attributes(span.attributes),
                }


def _attributes(pairs: Any) -> dict[str, str]:
    """Return the attributes of a span or a resource. All values are converted to strings."""
    return {
        pair.key: str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))
        for pair in pairs
    }


@dataclass(slots=True)
class Span:
    """A span of a trace. ``children`` are the spans inside this span, the earliest first.

    ``begin_ms`` is the time from the start of the trace's earliest span to the start of this span,
    in milliseconds.
    """

    service: str
    name: str
    begin_ms: float
    duration_ms: float
    is_error: bool
    attributes: dict[str, str]
    children: list["Span"] = field(default_factory=list)


def read_trace(folder: Path, trace_id: str) -> list[Span]:
    """Return the root spans of a trace, the earliest first.

    The spans are read from the files in ``folder``. A root span is a span whose parent is not in
    these files. The result is empty if the files contain no span of the trace.
    """
    found = sorted(_read_spans(folder, trace_id), key=lambda each: int(each["start_ns"]))
    spans = {
        each["span_id"]: Span(
            each["service"],
            each["name"],
            (each["start_ns"] - found[0]["start_ns"]) / 1e6,
            (each["end_ns"] - each["start_ns"]) / 1e6,
            each["is_error"],
            each["attributes"],
        )
        for each in found
    }
    roots: list[Span] = []
    for each in found:
        parent = spans.get(each["parent_id"] or "")
        (roots if parent is None else parent.children).append(spans[each["span_id"]])
    return roots


def _read_spans(folder: Path, trace_id: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob(f"*{FILE_NAME}")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                # A process that was killed may have left half a line.
                if trace_id in line:
                    try:
                        span = json.loads(line)
                    except ValueError:
                        continue
                    if span["trace_id"] == trace_id:
                        yield span
