"""Metrics: the figures of one worker process, as Prometheus scrapes them.

Each model has a handle whose methods are the events. Labels are bounded: models come from the
catalogue and outcomes from the error tree; job ids are in logs and traces.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from worker.errors import WorkerError

SUCCEEDED = "succeeded"

_PREFIX = "loosely_worker_"
# What a job waits for is a free device or a new worker: from milliseconds to many minutes.
_WAIT_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 1800)
_INFERENCE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# An outcome that no class of ours names: a model's own error class must not add a series each.
_OTHER = "other"


class Metrics:
    """All metrics of a process, in a registry of their own. Any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._outcomes = frozenset(_codes(WorkerError)) | {SUCCEEDED}
        self._received = self._counter("received", "Messages received.")
        self._redelivered = self._counter(
            "redeliveries", "Messages among them that had been delivered before."
        )
        self._settled = self._counter(
            "settled", "Messages settled, by the outcome of their jobs.", "outcome"
        )
        self._queue_wait = self._histogram(
            "queue_wait_seconds", "Time in the queue until received.", _WAIT_BUCKETS
        )
        self._batch_size = self._histogram(
            "batch_size", "Jobs that went through the model together.", _SIZE_BUCKETS
        )
        self._inference = self._histogram(
            "inference_seconds", "Time of a batch in the model.", _INFERENCE_BUCKETS
        )
        self._lock_losses = self._counter(
            "lock_losses", "Jobs whose lock was lost while they were in hand."
        )
        self._splits = self._counter(
            "out_of_memory_splits", "Batches split since the device's memory did not suffice."
        )
        self._at_hand = self._counter(
            "results_at_hand",
            "Redelivered jobs answered by the result of their earlier run.",
        )
        self._loads = self._counter("model_loads", "Times the model was loaded.")
        self._unloads = self._counter("model_unloads", "Times it made room for another.")
        self._in_hand = self._gauge("jobs_in_hand", "Messages received and not yet settled.")
        self._loaded = self._gauge("model_loaded", "1 while the model can be called.")
        self._connected = self._gauge("queue_connected", "1 while the model's queue answers.")
        self._reserved = self._gauge(
            "device_memory_reserved_bytes", "Device memory reserved for the model."
        )
        self._used = Gauge(
            f"{_PREFIX}device_memory_used_bytes",
            "Device memory that this process has allocated.",
            registry=self.registry,
        )

    def of(self, model: str) -> "ModelMetrics":
        """The figures of one model; all its series are there from now on, at zero."""
        return ModelMetrics(self, model)

    def watch_memory_used(self, used_bytes: Callable[[], float]) -> None:
        """Ask this at each scrape for the device memory that the process has allocated."""
        self._used.set_function(used_bytes)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type of a scrape, in the format that its Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, ("model", *labels), registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(_PREFIX + name, text, ("model",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, ("model",), buckets=buckets, registry=self.registry)


class ModelMetrics:
    """One model's figures: a method for each event. Any thread."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._received = metrics._received.labels(model)
        self._redelivered = metrics._redelivered.labels(model)
        self._succeeded = metrics._settled.labels(model, SUCCEEDED)
        self._queue_wait = metrics._queue_wait.labels(model)
        self._batch_size = metrics._batch_size.labels(model)
        self._inference = metrics._inference.labels(model)
        self._lock_losses = metrics._lock_losses.labels(model)
        self._splits = metrics._splits.labels(model)
        self._at_hand = metrics._at_hand.labels(model)
        self._loads = metrics._loads.labels(model)
        self._unloads = metrics._unloads.labels(model)

    def watch(
        self,
        in_hand: Callable[[], float],
        loaded: Callable[[], float],
        connected: Callable[[], float],
    ) -> None:
        """Ask these at each scrape."""
        self._metrics._in_hand.labels(self._model).set_function(in_hand)
        self._metrics._loaded.labels(self._model).set_function(loaded)
        self._metrics._connected.labels(self._model).set_function(connected)

    def watch_memory_reserved(self, reserved_bytes: Callable[[], float]) -> None:
        """Ask this at each scrape for the device memory that is reserved for the model."""
        self._metrics._reserved.labels(self._model).set_function(reserved_bytes)

    def received(self, delivery_count: int, wait_seconds: float) -> None:
        """A message came after so many earlier deliveries, and this long after it was enqueued."""
        self._received.inc()
        if delivery_count > 0:
            self._redelivered.inc()
        # The broker's clock may be ahead of ours.
        self._queue_wait.observe(max(0.0, wait_seconds))

    def settled(self, outcome: str) -> None:
        """A message ends: `succeeded`, or the code of an error."""
        if outcome == SUCCEEDED:
            self._succeeded.inc()
            return
        known = outcome if outcome in self._metrics._outcomes else _OTHER
        self._metrics._settled.labels(self._model, known).inc()

    def ran(self, batch_size: int, seconds: float) -> None:
        """A batch has been through the model."""
        self._batch_size.observe(batch_size)
        self._inference.observe(seconds)

    def lock_lost(self) -> None:
        """A job in hand has lost its lock."""
        self._lock_losses.inc()

    def split(self) -> None:
        """A batch was too much for the memory and is run in parts."""
        self._splits.inc()

    def answered_at_hand(self) -> None:
        """A job was delivered again, and its result still lay ready."""
        self._at_hand.inc()

    def loaded(self) -> None:
        """The model was loaded."""
        self._loads.inc()

    def unloaded(self) -> None:
        """The model was unloaded."""
        self._unloads.inc()


def _codes(error: type[WorkerError]) -> Iterator[str]:
    yield error.code
    for narrower in error.__subclasses__():
        yield from _codes(narrower)
