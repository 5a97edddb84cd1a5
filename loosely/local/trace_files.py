"""Write the spans of traces to files, and read them again: the traces of `loosely up --traces`.

The gateway and the worker load `FileSpanExporter` by the name EXPORTER in OTEL_TRACES_EXPORTER.
Each process appends to its own file in the folder that FOLDER_VARIABLE names, one JSON object for
each span.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult

EXPORTER: Final = "loosely_file"
FOLDER_VARIABLE: Final = "LOOSELY_TRACES"
_MAX_BYTES: Final = 16 * 1024 * 1024


def make_exporter() -> Any:
    """Return an OpenTelemetry span exporter that writes to the folder in FOLDER_VARIABLE.

    Raises:
        ValueError: The variable is not set.
    """
    # The SDK is slow to import, and `loosely trace` does not need it.
    from opentelemetry.sdk.trace.export import SpanExporter  # noqa: PLC0415

    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise ValueError(f"{FOLDER_VARIABLE} is not set: it names the folder of the traces")

    class FileSpanExporter(SpanExporter):
        """Appends spans to a file. If the file is large, an older file is replaced."""

        def __init__(self, file: Path) -> None:
            self._file = file

        def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
            """Append these spans to the file. A full disk loses them."""
            return _append(self._file, spans)

    return FileSpanExporter(Path(folder) / f"{os.getpid()}.jsonl")


def _append(file: Path, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

    lines = "".join(json.dumps(_as_object(span)) + "\n" for span in spans)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.stat().st_size > _MAX_BYTES:
            file.replace(file.with_suffix(".old.jsonl"))
        with file.open("a", encoding="utf-8") as output:
            output.write(lines)
    except OSError:
        return SpanExportResult.FAILURE
    return SpanExportResult.SUCCESS


def _as_object(span: "ReadableSpan") -> dict[str, Any]:
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{parent.span_id:016x}" if parent else None,
        "service": str(span.resource.attributes.get("service.name", "")),
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "is_error": not span.status.is_ok and span.status.status_code.name == "ERROR",
        "attributes": {key: str(value) for key, value in (span.attributes or {}).items()},
    }


@dataclass(slots=True)
class Span:
    """A span of a trace, with the spans inside it, the earliest first. Times are in ms."""

    span_id: str
    service: str
    name: str
    begin_ms: float
    duration_ms: float
    is_error: bool
    attributes: dict[str, str]
    children: list["Span"] = field(default_factory=list)


def read_trace(folder: Path, trace_id: str) -> list[Span]:
    """Return the spans of a trace that have no parent in the files, the earliest first.

    ``begin_ms`` of each span is the time since the begin of the earliest span. The result is empty
    if the files have no span of the trace.
    """
    found = sorted(_read_spans(folder, trace_id), key=lambda each: int(each["start_ns"]))
    if not found:
        return []
    first_ns = int(found[0]["start_ns"])
    spans: dict[str, Span] = {}
    roots: list[Span] = []
    for each in found:
        spans[each["span_id"]] = Span(
            each["span_id"],
            each["service"],
            each["name"],
            (each["start_ns"] - first_ns) / 1e6,
            (each["end_ns"] - each["start_ns"]) / 1e6,
            each["is_error"],
            each["attributes"],
        )
    for each in found:
        parent = spans.get(each["parent_id"] or "")
        (roots if parent is None else parent.children).append(spans[each["span_id"]])
    return roots


def _read_spans(folder: Path, trace_id: str) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.jsonl")):
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
