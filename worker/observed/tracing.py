"""Traces: what becomes of a job here, as spans in the trace of the request that it came from.

    process QUEUE      from received to settled      links to the request's span
    ├── prepare        fetch, decode, preprocess
    ├── inference      the batch that it ran in; that of the batch's first job links to all of them,
    │                  those of the others link to it
    └── reply          the result is stored, and the reply delivered

Names and attributes are those of OpenTelemetry's messaging conventions. Where nobody set up the
SDK no span is made: a job then only knows its trace id, for the logs.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contract.names import PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE
from worker.errors import Cancelled, HandedBack, NotWaitedFor
from worker.messages.servicebus import Delivery
from worker.observed.metrics import SUCCEEDED

_W3C = TraceContextTextMapPropagator()
_NO_STEP = nullcontext()
_NO_FAILURES = frozenset({SUCCEEDED, Cancelled.code, HandedBack.code, NotWaitedFor.code})


class JobSpan:
    """The span of one job; where nothing is traced, its trace id alone."""

    __slots__ = ("_context", "_span", "_tracer", "trace_id")

    def __init__(
        self, trace_id: str, tracer: Tracer | None = None, span: Span | None = None
    ) -> None:
        self.trace_id = trace_id
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context()) if span else None

    def step(self, name: str, *, calls_out: bool = False) -> AbstractContextManager[object]:
        """A child span around what happens now on this thread."""
        if self._tracer is None:
            return _NO_STEP
        kind = SpanKind.CLIENT if calls_out else SpanKind.INTERNAL
        return self._tracer.start_as_current_span(name, self._context, kind)

    def end(self, outcome: str, attributes: Mapping[str, Any]) -> None:
        """The job has ended in this way: `succeeded`, or the code of an error."""
        if self._span is None:
            return
        self._span.set_attributes({"loosely.outcome": outcome, **attributes})
        if outcome not in _NO_FAILURES:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Tracing:
    """Makes the spans of a worker's jobs."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Without a provider nothing is traced, and nothing is spent on it."""
        self._tracer = provider.get_tracer("loosely.worker") if provider else None

    def headers(self) -> dict[str, str]:
        """What an HTTP request sends so that its receiver's spans join the current one's trace."""
        carrier: dict[str, str] = {}
        if self._tracer is not None:
            _W3C.inject(carrier)
        return carrier

    def job(self, model: str, queue: str, job_id: str, delivery: Delivery) -> JobSpan:
        """Begin the span of a job that came with this message."""
        properties = delivery.properties
        traceparent = properties.get(PROPERTY_TRACEPARENT, "")
        trace_id = traceparent.split("-")[1] if traceparent.count("-") >= 3 else "-"
        if self._tracer is None:
            return JobSpan(trace_id)
        names = (PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE)
        carrier = {name: properties[name] for name in names if name in properties}
        context = _W3C.extract(carrier, Context())
        request = trace.get_current_span(context).get_span_context()
        span = self._tracer.start_span(
            f"process {queue}",
            context,
            SpanKind.CONSUMER,
            links=[Link(request)] if request.is_valid else [],
            attributes={**_attributes("process", queue, delivery), "loosely.model": model}
            | {"messaging.message.id": job_id, "messaging.message.conversation_id": job_id},
        )
        return JobSpan(format(span.get_span_context().trace_id, "032x"), self._tracer, span)

    @contextmanager
    def batch(self, model: str, jobs: Sequence[JobSpan]) -> Iterator[None]:
        """The time in which these jobs, at least one, are in the model together."""
        if self._tracer is None or jobs[0]._span is None:
            yield
            return
        started_at = time.time_ns()
        attributes: dict[str, Any] = {"loosely.model": model, "loosely.batch_size": len(jobs)}
        links = [Link(job._span.get_span_context()) for job in jobs if job._span is not None]
        with self._tracer.start_as_current_span(
            "inference", jobs[0]._context, attributes=attributes, links=links
        ) as span:
            yield
        ended_at, together = time.time_ns(), [Link(span.get_span_context())]
        for job in jobs[1:]:
            self._tracer.start_span(
                "inference",
                job._context,
                attributes=attributes,
                links=together,
                start_time=started_at,
            ).end(ended_at)


def _attributes(operation: str, queue: str, delivery: Delivery) -> dict[str, Any]:
    known = {
        "messaging.system": "servicebus",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.servicebus.message.delivery_count": delivery.delivery_count + 1,
    }
    if delivery.enqueued_at is not None:
        # Whole seconds, say the conventions.
        enqueued_at = int(delivery.enqueued_at.timestamp())
        known["messaging.servicebus.message.enqueued_time"] = enqueued_at
    return known
