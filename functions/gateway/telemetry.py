"""Traces of requests, and counts of accepted and ended jobs.

The W3C Trace Context is passed from the HTTP request through the queue to the worker:

    POST /v1/models/{model}/jobs     the HTTP request, in the caller's trace if there is one
    └── send QUEUE                   the message, whose trace context the worker continues

Without OpenTelemetry's SDK the gateway creates no spans. The worker then receives the caller's
trace context, or a new one. The standard OTEL_* variables configure the SDK. OTEL_TRACES_EXPORTER
names exporters as in OpenTelemetry's specification, or as an installed package registers them.
"""

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contract.errors import InvalidSetting
from contract.messages import FailureCode
from contract.settings import BrokerKind
from gateway.clock import Clock

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_ZERO_TRACE = "0" * 32
_ZERO_SPAN = "0" * 16
_W3C: Final = TraceContextTextMapPropagator()

ReportStatus = Callable[[int], None]
"""Records the HTTP status of the response in the request's span."""

_AsgiScope = MutableMapping[str, Any]


class GatewayTracing:
    """Creates the gateway's spans; none without a tracer provider."""

    def __init__(
        self,
        provider: TracerProvider | None = None,
        broker: BrokerKind = BrokerKind.SERVICE_BUS,
    ) -> None:
        self._broker = broker
        self._tracer = provider.get_tracer("loosely.gateway") if provider else None

    @contextmanager
    def request(self, scope: _AsgiScope) -> Iterator[ReportStatus | None]:
        """Create the span of a request; yield what records its status, or None without tracing."""
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
        """Create a span for a message that is sent; yield the traceparent of the message."""
        if self._tracer is None:
            yield parent
            return
        with self._tracer.start_as_current_span(
            f"send {queue}",
            _W3C.extract({"traceparent": parent or ""}, Context()),
            SpanKind.PRODUCER,
            attributes={
                "messaging.system": self._broker.value,
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": queue,
                "messaging.message.id": job_id,
                "messaging.message.conversation_id": job_id,
            },
        ):
            yield traceparent(parent)


def traceparent(header: str | None) -> str:
    """Return the traceparent of the current span, else the valid `header`, else a new one."""
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
    """Return the trace id that a traceparent contains."""
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


KEPT_MINUTES: Final = 60
"""For how many minutes before the current minute the counts are kept."""

BUCKET_SECONDS: Final = tuple(0.001 * 2 ** (step / 2) for step in range(44))
"""The upper bounds of a histogram's buckets in seconds: 1 ms to 50 minutes, each 1.41 times longer.

If the bounds change, the version of the stored counts (see `gateway.operations.sums`) must change.
"""


@dataclass(slots=True)
class Histogram:
    """Counts durations in buckets: one for each of BUCKET_SECONDS, and one for longer ones."""

    counts: Counter[int] = field(default_factory=Counter)
    sum_seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Add a duration unless it is impossible, such as NaN."""
        # This comparison is also false for NaN. The value was sent by a worker and may be wrong.
        if 0 <= seconds < _MAX_DURATION_SECONDS:
            self.counts[bisect_left(BUCKET_SECONDS, seconds)] += 1
            self.sum_seconds += seconds

    def add(self, other: "Histogram") -> None:
        """Add the counts of another histogram."""
        self.counts.update(other.counts)
        self.sum_seconds += other.sum_seconds


_MAX_DURATION_SECONDS: Final = 30 * 24 * 3600.0


@dataclass(slots=True)
class ModelSum:
    """What happened to the jobs of one model in a period.

    `accepted` includes the new jobs of redriven dead letters, and `failed` has error codes.
    `failed_at_seconds` has the time of the last failure with each code, in seconds since 1970.
    `wait` and `run` say how long the jobs that succeeded were queued, and how long their batches
    ran, and `first_chunk` how long jobs with `chunks` were queued and ran until the first chunk.
    `waiting` is the largest recorded number of queued messages; in the totals of a process it
    is the last one.
    """

    accepted: int = 0
    succeeded: int = 0
    cancelled: int = 0
    expired: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failed_at_seconds: dict[str, float] = field(default_factory=dict)
    wait: Histogram = field(default_factory=Histogram)
    run: Histogram = field(default_factory=Histogram)
    chunks: int = 0
    first_chunk: Histogram = field(default_factory=Histogram)
    waiting: int | None = None

    @property
    def ended(self) -> int:
        """How many jobs ended, with any final status."""
        return self.succeeded + self.cancelled + self.expired + self.failed.total()

    def add(self, other: "ModelSum") -> None:
        """Add the counts of another process or of a later period."""
        self.accepted += other.accepted
        self.succeeded += other.succeeded
        self.cancelled += other.cancelled
        self.expired += other.expired
        self.failed.update(other.failed)
        for code, at_seconds in other.failed_at_seconds.items():
            self.failed_at_seconds[code] = max(
                at_seconds, self.failed_at_seconds.get(code, at_seconds)
            )
        self.wait.add(other.wait)
        self.run.add(other.run)
        self.chunks += other.chunks
        self.first_chunk.add(other.first_chunk)
        if other.waiting is not None:
            # Two processes may have counted the same queue.
            self.waiting = max(other.waiting, self.waiting or 0)


Sums = dict[str, ModelSum]
"""The sums of one period, by the model's name."""


class JobCounters:
    """Counts events of jobs by minute and in total. Each is in one process, so counts add up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.minutes: dict[int, Sums] = {}
        """The sums of the last KEPT_MINUTES and of the current one, by minutes since 1970."""
        self.totals: Sums = {}
        """The sums since the start of this process."""
        self.change_count = 0
        self.is_changed = False
        self.on_change: Callable[[], None] = lambda: None
        """Called when a change sets `is_changed`, and again only after that was reset."""

    def record_accepted(self, model: str) -> None:
        """Count a job that was accepted."""
        for sums in self._current(model):
            sums.accepted += 1
        self._note_change()

    def record_end(
        self,
        model: str,
        status: str,
        code: str | None,
        durations: tuple[float, float] | None,
        stream: tuple[float, int] | None = None,
    ) -> None:
        """Count a job that ended. `durations` has its wait and its run in seconds, if known.

        `stream` has the seconds until its first chunk, and the number of its chunks.
        """
        now_seconds = self._clock().timestamp()
        minute, totals = self._current(model)
        # Each minute has the codes of the totals, so that the hour has no more codes either.
        name = _limited_code(code, totals.failed)
        for sums in (minute, totals):
            if stream is not None:
                sums.first_chunk.observe(stream[0])
                sums.chunks += stream[1]
            match status:
                case "succeeded":
                    sums.succeeded += 1
                    if durations is not None:
                        sums.wait.observe(durations[0])
                        sums.run.observe(durations[1])
                case "cancelled":
                    sums.cancelled += 1
                case "expired":
                    sums.expired += 1
                    sums.failed_at_seconds["expired"] = now_seconds
                case _:
                    sums.failed[name] += 1
                    sums.failed_at_seconds[name] = now_seconds
        self._note_change()

    def record_waiting(self, model: str, count: int) -> None:
        """Record the length of the model's queues. An empty queue stays without a change."""
        minute, totals = self._current(model)
        before, totals.waiting = totals.waiting, count
        if count or before:
            minute.waiting = max(count, minute.waiting or 0)
            self._note_change()

    def _current(self, model: str) -> tuple[ModelSum, ModelSum]:
        minute = int(self._clock().timestamp() // 60)
        sums = self.minutes.get(minute)
        if sums is None:
            sums = self.minutes[minute] = {}
            for old in [each for each in self.minutes if each < minute - KEPT_MINUTES]:
                del self.minutes[old]
        if model not in sums:
            sums[model] = ModelSum()
        if model not in self.totals:
            self.totals[model] = ModelSum()
        return sums[model], self.totals[model]

    def _note_change(self) -> None:
        self.change_count += 1
        if not self.is_changed:
            self.is_changed = True
            self.on_change()


def _limited_code(code: str | None, known: Counter[str]) -> str:
    """Return under which name a code counts: `other` if it is long, odd or one too many."""
    name = code or "unknown"
    if name in known or name in set(FailureCode):
        return name
    return name if _CODE.fullmatch(name) and len(known) < _MAX_CODES else "other"


_CODE: Final = re.compile("[A-Za-z0-9._-]{1,64}")
_MAX_CODES: Final = 30


_SETTING = "OTEL_TRACES_EXPORTER"
_GROUP = "opentelemetry_traces_exporter"
# From an exporter's name in the specification to the entry point of its default protocol.
_ALIASES = {"otlp": "otlp_proto_http"}
_SERVICE_NAME = "loosely-gateway"


def make_tracer_provider(exporters: Sequence[str]) -> TracerProvider | None:
    """Return a tracer provider with these exporters, or else the one that the host has set."""
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
            raise InvalidSetting(f"{_SETTING}: no installed package provides the exporter {name!r}")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return provider
