"""Record what happens to jobs, models and services: metrics, trace spans and log lines.

The spans of a job belong to the trace of the request that submitted the job:

    process QUEUE      from receiving to settling the message; links to the request's span
    ├── prepare        fetch, decode and preprocess the input
    ├── inference      run the batch that contains this job; the span of the batch's first job
    │                  links to all jobs of the batch, and the spans of the other jobs link to
    │                  the span of the first job
    └── reply          send the reply

Names and attributes follow OpenTelemetry's messaging conventions. Without an exporter, no spans are
created, and only the trace id of a job is logged. The number of metric labels is limited: models
come from the catalogue, and outcomes are error codes. Job ids are in logs and traces only.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from contract.messages import DeliveryMarks
from contract.names import PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE
from worker.errors import Cancelled, HandedBack, NotWaitedFor, WorkerError

if TYPE_CHECKING:
    from worker.brokers.port import LockedMessage

_log = logging.getLogger(__name__)

SUCCEEDED = "succeeded"

_PREFIX = "loosely_worker_"
# A job may wait for a free device or for a new worker, from milliseconds to many minutes.
_WAIT_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 1800)
_INFERENCE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# The outcome for all error classes that models define, so that they do not create new series.
_OTHER = "other"

_W3C = TraceContextTextMapPropagator()
_NO_SPAN = nullcontext()
# Outcomes that are not failures.
_FINE_OUTCOMES = frozenset({SUCCEEDED, Cancelled.code, HandedBack.code, NotWaitedFor.code})

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})
_fields: ContextVar[Mapping[str, str]] = ContextVar("fields", default=_NO_FIELDS)


@contextlib.contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Add these fields to all JSON log lines of this thread inside the `with` block."""
    token = _fields.set(fields)
    try:
        yield
    finally:
        _fields.reset(token)


def current_log_fields() -> Mapping[str, str]:
    """Return the fields of the innermost `with log_fields(...)` block of this thread."""
    return _fields.get()


class TextLines(logging.Formatter):
    """Formats each log record as a line of text, with the indented lines of a traceback.

    Control characters are escaped, so that text of callers cannot look like another log line or
    control a terminal.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base's name
        """Return the line of a log record, without its traceback."""
        return _escape(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802  the base's name
        """Return the indented lines of a traceback."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {_escape(line)}" for line in lines)


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class ServiceStatus:
    """Records whether a service answers, and logs each change. Any thread may call the methods."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._answers: bool | None = None
        self.is_up = False

    def mark_down(self, reason: object) -> None:
        """Record that a call failed, and log `reason` if the previous call did not fail."""
        if self._change(answers=False):
            _log.warning("%s does not answer; the worker tries again: %s", self._service, reason)

    def mark_up(self) -> None:
        """Record that a call to the service succeeded."""
        if self._answers is not True and self._change(answers=True):
            _log.info("%s is available", self._service)

    def _change(self, *, answers: bool) -> bool:
        with self._lock:
            has_changed = self._answers is not answers
            self._answers = answers
            self.is_up = answers
            return has_changed


class Metrics:
    """All metrics of a worker process, in their own registry. Any thread may use them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.outcomes = frozenset(_codes(WorkerError)) | {SUCCEEDED}
        self.received = self._counter("received", "Messages received.")
        self.redelivered = self._counter(
            "redeliveries", "Received messages that had been delivered before."
        )
        self.settled = self._counter(
            "settled", "Messages settled, by the outcome of their jobs.", "outcome"
        )
        self.queue_wait = self._histogram(
            "queue_wait_seconds",
            "Time from when a message was put into the queue until it was received.",
            _WAIT_BUCKETS,
        )
        self.batch_size = self._histogram(
            "batch_size", "Jobs that ran in one batch.", _SIZE_BUCKETS
        )
        self.inference = self._histogram(
            "inference_seconds", "Time that the model needed for one batch.", _INFERENCE_BUCKETS
        )
        self.first_chunk = self._histogram(
            "first_chunk_seconds",
            "Time from when a message was put into the queue until the model's first chunk.",
            _WAIT_BUCKETS,
        )
        self.chunks = self._counter("chunks", "Chunks that the model emitted.")
        self.streams_lost = self._counter(
            "streams_lost", "Jobs of which not all events could be written to their streams."
        )
        self.lock_losses = self._counter(
            "lock_losses", "Messages whose lock was lost before they were settled."
        )
        self.splits = self._counter(
            "out_of_memory_splits", "Batches that were split because they did not fit into memory."
        )
        self.reused_replies = self._counter(
            "results_at_hand", "Redelivered jobs that were answered with a cached reply."
        )
        self.loads = self._counter("model_loads", "Times the model was loaded.")
        self.unloads = self._counter("model_unloads", "Times the model was unloaded.")
        self.load_failures = self._counter(
            "model_load_failures", "Failed loads, by the code of the reason.", "reason"
        )
        self.set_aside = self._gauge(
            "model_set_aside", "1 while the model is set aside because it is broken."
        )
        self.in_flight = self._gauge("jobs_in_hand", "Messages received and not yet settled.")
        self.loaded = self._gauge("model_loaded", "1 while the model is loaded.")
        self.connected = self._gauge(
            "queue_connected", "1 while the worker is connected to the model's queue."
        )
        self.reserved = self._gauge(
            "device_memory_reserved_bytes", "Device memory reserved for the model."
        )
        self._used = Gauge(
            f"{_PREFIX}device_memory_used_bytes",
            "Device memory that this process has allocated.",
            registry=self.registry,
        )
        self._device = Gauge(
            f"{_PREFIX}device_info",
            "1; the labels name the device, its driver, and the versions of CUDA and torch.",
            ("device", "driver", "cuda", "torch"),
            registry=self.registry,
        )
        self._describe_device: Callable[[], Mapping[str, str]] = dict

    def watch_memory_used(self, used_bytes: Callable[[], float]) -> None:
        """Register a function that returns the used device memory in bytes, for each scrape."""
        self._used.set_function(used_bytes)

    def watch_device(self, describe: Callable[[], Mapping[str, str]]) -> None:
        """Register a function that returns the labels of the metric that describes the device."""
        self._describe_device = describe

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that the Accept header prefers, and the content type."""
        if labels := self._describe_device():
            self._device.labels(**labels).set(1)
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, ("model", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(_PREFIX + name, text, ("model",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, ("model",), buckets=buckets, registry=self.registry)


class JobSpan:
    """The trace span of a job. If no spans are created, the object has only the trace id."""

    __slots__ = ("_context", "_span", "_tracer", "trace_id")

    def __init__(
        self, trace_id: str, tracer: Tracer | None = None, span: Span | None = None
    ) -> None:
        self.trace_id = trace_id
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, Context()) if span else None

    def record_step(self, name: str, *, calls_out: bool = False) -> AbstractContextManager[object]:
        """Return a context manager that records a step of the job, which may call a service."""
        if self._tracer is None:
            return _NO_SPAN
        kind = SpanKind.CLIENT if calls_out else SpanKind.INTERNAL
        return self._tracer.start_as_current_span(name, self._context, kind)

    def end_span(self, outcome: str, attributes: Mapping[str, Any]) -> None:
        """End the job's span with its outcome: `succeeded`, or the code of the job's error."""
        if self._span is None:
            return
        self._span.set_attributes({"loosely.outcome": outcome, **attributes})
        if outcome not in _FINE_OUTCOMES:
            self._span.set_attribute("error.type", outcome)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class JobTracing:
    """Creates the trace spans of a worker's jobs; none without a provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = provider.get_tracer("loosely.worker") if provider else None

    def headers(self) -> dict[str, str]:
        """Return the HTTP headers that pass on the current trace; empty if no spans are created."""
        carrier: dict[str, str] = {}
        if self._tracer is not None:
            _W3C.inject(carrier)
        return carrier

    def start_job_span(
        self, model: str, queue: str, job_id: str, delivery: "LockedMessage"
    ) -> JobSpan:
        """Start the span of a job, whose message is `delivery`, and return the span."""
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
    def record_batch(self, model: str, jobs: Sequence[JobSpan]) -> Iterator[None]:
        """Record the `with` block as inference in each job's trace; an error only in the first."""
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
        ended_at, batch_link = time.time_ns(), [Link(span.get_span_context())]
        for job in jobs[1:]:
            self._tracer.start_span(
                "inference",
                job._context,
                attributes=attributes,
                links=batch_link,
                start_time=started_at,
            ).end(ended_at)


class ModelTelemetry:
    """Records the events of one model as metrics and traces. Any thread may call the methods."""

    def __init__(
        self, model: str, metrics: Metrics | None = None, tracing: JobTracing | None = None
    ) -> None:
        """Create the model's metric series with the value 0. By default, nothing is exported."""
        self.model = model
        self._metrics = metrics or Metrics()
        self._tracing = tracing or JobTracing()
        self._received = self._metrics.received.labels(model)
        self._redelivered = self._metrics.redelivered.labels(model)
        self._succeeded = self._metrics.settled.labels(model, SUCCEEDED)
        self._queue_wait = self._metrics.queue_wait.labels(model)
        self._batch_size = self._metrics.batch_size.labels(model)
        self._inference = self._metrics.inference.labels(model)
        self._first_chunk = self._metrics.first_chunk.labels(model)
        self._chunks = self._metrics.chunks.labels(model)
        self._streams_lost = self._metrics.streams_lost.labels(model)
        self.lock_losses = self._metrics.lock_losses.labels(model)
        self.splits = self._metrics.splits.labels(model)
        self.reused_replies = self._metrics.reused_replies.labels(model)
        self.loads = self._metrics.loads.labels(model)
        self.unloads = self._metrics.unloads.labels(model)
        self.last_batch_size: int | None = None
        """How many jobs ran in the last batch; None before the first batch."""

    def watch(
        self,
        in_flight: Callable[[], float],
        is_loaded: Callable[[], float],
        is_connected: Callable[[], float],
        reserved_bytes: Callable[[], float],
        is_set_aside: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Register the functions that each scrape calls to read the model's gauges."""
        self._metrics.in_flight.labels(self.model).set_function(in_flight)
        self._metrics.loaded.labels(self.model).set_function(is_loaded)
        self._metrics.connected.labels(self.model).set_function(is_connected)
        self._metrics.reserved.labels(self.model).set_function(reserved_bytes)
        self._metrics.set_aside.labels(self.model).set_function(is_set_aside)

    def start_span(self, queue: str, job_id: str, delivery: "LockedMessage") -> JobSpan:
        """Start the span of a job, whose message is `delivery`, and return the span."""
        return self._tracing.start_job_span(self.model, queue, job_id, delivery)

    def record_received(self, delivery_count: int, wait_seconds: float) -> None:
        """Record a received message, its earlier deliveries, and its time in the queue."""
        self._received.inc()
        if delivery_count > 0:
            self._redelivered.inc()
        # The broker's clock may be ahead of ours.
        self._queue_wait.observe(max(0.0, wait_seconds))

    def record_outcome(self, outcome: str) -> None:
        """Record the outcome of a message: `succeeded`, or the code of the job's error."""
        if outcome == SUCCEEDED:
            self._succeeded.inc()
            return
        known = outcome if outcome in self._metrics.outcomes else _OTHER
        self._metrics.settled.labels(self.model, known).inc()

    def record_stream(self, queued_seconds: float, marks: DeliveryMarks) -> None:
        """Record what a job emitted, if it did, and whether its events were written."""
        if marks.first_chunk_ms is not None:
            self._first_chunk.observe(max(0.0, queued_seconds) + marks.first_chunk_ms / 1000)
        self._chunks.inc(marks.chunks or 0)
        self._streams_lost.inc(marks.stream_lost)

    @contextmanager
    def record_batch(self, jobs: Sequence[JobSpan]) -> Iterator[None]:
        """Record the `with` block as one run of the model; a failed one only in a trace."""
        started = time.perf_counter()
        with self._tracing.record_batch(self.model, jobs):
            yield
        self._batch_size.observe(len(jobs))
        self.last_batch_size = len(jobs)
        self._inference.observe(time.perf_counter() - started)

    def record_load_failure(self, code: str) -> None:
        """Record that the model could not be loaded, with the code of the error."""
        self._metrics.load_failures.labels(self.model, code).inc()


def _codes(error: type[WorkerError]) -> Iterator[str]:
    yield error.code
    for subclass in error.__subclasses__():
        yield from _codes(subclass)


def _attributes(operation: str, queue: str, delivery: "LockedMessage") -> dict[str, Any]:
    known = {
        "messaging.system": "servicebus",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.servicebus.message.delivery_count": delivery.delivery_count + 1,
    }
    if delivery.enqueued_at is not None:
        # The conventions demand whole seconds.
        enqueued_at = int(delivery.enqueued_at.timestamp())
        known["messaging.servicebus.message.enqueued_time"] = enqueued_at
    return known
