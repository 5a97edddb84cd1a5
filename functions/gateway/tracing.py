"""W3C Trace Context: one trace from the HTTP request through the queue to the worker.

    POST /v1/models/{model}/jobs     the request, in its caller's trace where it has one
    └── send QUEUE                   the message, whose context the worker goes on from

Where nobody set up OpenTelemetry's SDK no span is made, and the caller's context, or a new one,
goes on as it is.
"""

import os
import re
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_ZERO_TRACE = "0" * 32
_ZERO_SPAN = "0" * 16
_W3C: Final = TraceContextTextMapPropagator()

Scope = MutableMapping[str, Any]
Answered = Callable[[int], None]
"""Hears of the status that a request is answered with."""


class Tracing:
    """Makes the gateway's spans."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Without a provider nothing is traced, and nothing is spent on it."""
        self._tracer = provider.get_tracer("loosely.gateway") if provider else None

    @contextmanager
    def request(self, scope: Scope) -> Iterator[Answered | None]:
        """The span of an HTTP request, given as its ASGI scope; None where nothing is traced."""
        if self._tracer is None:
            yield None
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        method = scope["method"]
        with self._tracer.start_as_current_span(
            method,
            _W3C.extract(headers, Context()),
            SpanKind.SERVER,
            attributes={
                "http.request.method": method,
                "url.path": scope["path"],
                "url.scheme": scope.get("scheme", "http"),
            },
        ) as span:
            yield lambda status: _answered(span, scope, method, status)

    @contextmanager
    def sending(self, queue: str, job_id: str, parent: str | None) -> Iterator[str | None]:
        """The span of a message; gives the traceparent that it is to carry."""
        if self._tracer is None:
            yield parent
            return
        with self._tracer.start_as_current_span(
            f"send {queue}",
            _W3C.extract({"traceparent": parent or ""}, Context()),
            SpanKind.PRODUCER,
            attributes={
                "messaging.system": "servicebus",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": queue,
                "messaging.message.id": job_id,
                "messaging.message.conversation_id": job_id,
            },
        ):
            yield traceparent(parent)


def traceparent(header: str | None) -> str:
    """The current span's, else the caller's, else a new one, so that each job can be traced."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    match = _TRACEPARENT.fullmatch(header or "")
    if match and match[1] != _ZERO_TRACE and match[2] != _ZERO_SPAN:
        return match[0]
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"


def trace_id(parent: str | None) -> str | None:
    """The trace id in a traceparent."""
    return parent.split("-")[1] if parent else None


def _answered(span: Span, scope: Scope, method: str, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    # There once the router has found it. Not the path: a name for each job would be no name.
    if route := getattr(scope.get("route"), "path", None):
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", str(status))
