"""Traces with W3C Trace Context, from the HTTP request through the queue to the worker.

    POST /v1/models/{model}/jobs     the HTTP request, in the caller's trace if there is one
    └── send QUEUE                   the message, whose trace context the worker continues

Without OpenTelemetry's SDK the gateway creates no spans. The worker then receives the caller's
trace context, or a new trace context if the caller sent none.

The standard OTEL_* variables configure the SDK. OTEL_TRACES_EXPORTER names exporters as in
OpenTelemetry's specification: `otlp`, `console`, or a name that an installed package registers,
for example Azure Monitor's. The SDK and the exporters read all other variables themselves.
"""

import os
import re
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.errors import InvalidSetting

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_ZERO_TRACE = "0" * 32
_ZERO_SPAN = "0" * 16
_W3C: Final = TraceContextTextMapPropagator()

ReportStatus = Callable[[int], None]
"""The type of a function that records the HTTP status of the response in the request's span."""

_AsgiScope = MutableMapping[str, Any]


class GatewayTracing:
    """Creates the gateway's spans."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Create spans with this tracer provider. If it is None, create no spans."""
        self._tracer = provider.get_tracer("loosely.gateway") if provider else None

    @contextmanager
    def request(self, scope: _AsgiScope) -> Iterator[ReportStatus | None]:
        """Create the span of an HTTP request for the `with` block.

        Yields a function that records the status of the response. Yields None without tracing.
        """
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
            yield lambda status: _set_status(span, scope, method, status)

    @contextmanager
    def sending(self, queue: str, job_id: str, parent: str | None) -> Iterator[str | None]:
        """Create a span for the `with` block, in which the caller sends a message.

        Yields the traceparent that the message must contain. Without tracing, this is `parent`.
        """
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
    """Return the traceparent of the current span.

    Without a current span, returns the caller's traceparent `header`. If `header` is missing or not
    valid, returns a new traceparent. Therefore every job has a trace id.
    """
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    match = _TRACEPARENT.fullmatch(header or "")
    if match and match[1] != _ZERO_TRACE and match[2] != _ZERO_SPAN:
        return match[0]
    return f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"


def traceparent_of(scope: _AsgiScope) -> str:
    """Return the traceparent of an HTTP request. Repeated calls return the same value."""
    known: str | None = scope.get("gateway.traceparent")
    if known is None:
        given = (value for name, value in scope["headers"] if name == b"traceparent")
        known = traceparent(next(given, b"").decode("latin-1"))
        scope["gateway.traceparent"] = known
    return known


def trace_id(parent: str | None) -> str | None:
    """Return the trace id that a traceparent contains; None if `parent` is None or empty."""
    return parent.split("-")[1] if parent else None


def _set_status(span: Span, scope: _AsgiScope, method: str, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    # The router has set the route. The path would give each job's span a different name.
    if route := getattr(scope.get("route"), "path", None):
        span.update_name(f"{method} {route}")
        span.set_attribute("http.route", route)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", str(status))


_SETTING = "OTEL_TRACES_EXPORTER"
_GROUP = "opentelemetry_traces_exporter"
# From an exporter's name in the specification to the entry point of its default protocol.
_ALIASES = {"otlp": "otlp_proto_http"}
_SERVICE_NAME = "loosely-gateway"


def make_tracer_provider(exporters: Sequence[str]) -> TracerProvider | None:
    """Return a tracer provider with these exporters.

    If `exporters` is empty, return the tracer provider that the Functions host has set, or None if
    the host has set none.
    """
    if exporters:
        return _provider(exporters)
    # OpenTelemetry's API returns a proxy while no provider is set.
    current = trace.get_tracer_provider()
    return None if isinstance(current, trace.ProxyTracerProvider) else current


def _provider(exporters: Sequence[str]) -> TracerProvider:
    # Imported only here, because importing the SDK is slow.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": _SERVICE_NAME}))
    provider = SdkTracerProvider(resource=resource)
    for name in exporters:
        found = list(entry_points(group=_GROUP, name=_ALIASES.get(name, name)))
        if not found:
            raise InvalidSetting(_SETTING, f"no installed package provides the exporter {name!r}")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider
