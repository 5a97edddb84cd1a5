"""Traces: each job is a span linked to the request's, where OpenTelemetry is installed and set up.

A link, not a parent, as the messaging conventions ask: the request's span has mostly ended.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from contract.names import PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class JobSpan:
    """The span of one job; without OpenTelemetry it only knows the trace id, for the logs."""

    __slots__ = ("_span", "trace_id")

    def __init__(self, trace_id: str, span: "Span | None" = None) -> None:
        self.trace_id = trace_id
        self._span = span

    def end(self, outcome: str, attributes: Mapping[str, Any]) -> None:
        """The job has ended in this way."""
        if self._span is not None:
            self._span.set_attributes({"loosely.outcome": outcome, **attributes})
            self._span.end()


def start_span(model: str, queue: str, job_id: str, properties: Mapping[str, str]) -> JobSpan:
    """Begin the span of a job whose message had these application properties."""
    traceparent = properties.get(PROPERTY_TRACEPARENT, "")
    trace_id = traceparent.split("-")[1] if traceparent.count("-") >= 3 else "-"
    try:
        from opentelemetry import trace  # noqa: PLC0415  it may be missing
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )
    except ImportError:
        return JobSpan(trace_id)
    names = (PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE)
    carrier = {name: properties[name] for name in names if name in properties}
    context = TraceContextTextMapPropagator().extract(carrier)
    request = trace.get_current_span(context).get_span_context()
    span = trace.get_tracer("loosely.worker").start_span(
        f"process {model}",
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(request)] if request.is_valid else [],
        start_time=time.time_ns(),
        attributes={
            "messaging.system": "servicebus",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": job_id,
            "messaging.message.conversation_id": job_id,
        },
    )
    return JobSpan(trace_id, span)
