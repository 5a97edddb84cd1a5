"""Test the metrics that Prometheus scrapes from a worker, and the document that lists them."""

import re
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from contract.messages import DeliveryMarks
from worker.errors import InvalidInput
from worker.telemetry.recording import JobSpan, Metrics, ModelTelemetry


class NewModelsRefusal(InvalidInput):
    """An error with an error code that is not in `worker.errors`, as a model may define it."""

    code = "anything-at-all"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"loosely_worker_{name}", labels)


def test_each_event_increases_its_metrics() -> None:
    metrics = Metrics()
    noop = ModelTelemetry("noop", metrics)
    noop.record_received(0, 0.3)
    noop.record_received(2, -0.1)
    noop.record_outcome("succeeded")
    noop.record_outcome("invalid-input")
    with noop.record_batch([JobSpan("-")] * 3):
        pass
    noop.lock_losses.inc()
    noop.splits.inc()
    noop.reused_replies.inc()
    noop.loads.inc()
    noop.unloads.inc()
    for name in ("lock_losses", "out_of_memory_splits", "results_at_hand"):
        assert value(metrics, f"{name}_total", model="noop") == 1, name
    assert value(metrics, "received_total", model="noop") == 2
    assert value(metrics, "redeliveries_total", model="noop") == 1
    assert value(metrics, "settled_total", model="noop", outcome="succeeded") == 1
    assert value(metrics, "settled_total", model="noop", outcome="invalid-input") == 1
    assert value(metrics, "model_loads_total", model="noop") == 1
    assert value(metrics, "model_unloads_total", model="noop") == 1
    assert value(metrics, "queue_wait_seconds_count", model="noop") == 2
    # A broker clock that is ahead must not give negative waits.
    assert value(metrics, "queue_wait_seconds_sum", model="noop") == 0.3
    assert value(metrics, "batch_size_sum", model="noop") == 3
    assert value(metrics, "inference_seconds_count", model="noop") == 1


def test_stream_is_recorded() -> None:
    metrics = Metrics()
    noop = ModelTelemetry("noop", metrics)
    at = datetime(2026, 3, 1, tzinfo=UTC)
    noop.record_stream(1.5, DeliveryMarks(at, first_chunk_ms=500.0, chunks=7))
    noop.record_stream(-1.0, DeliveryMarks(at, first_chunk_ms=250.0, chunks=1, stream_lost=True))
    noop.record_stream(1.5, DeliveryMarks(at))
    assert value(metrics, "first_chunk_seconds_count", model="noop") == 2
    # A broker clock that is ahead must not shorten the time.
    assert value(metrics, "first_chunk_seconds_sum", model="noop") == 2.25
    assert value(metrics, "chunks_total", model="noop") == 8
    assert value(metrics, "streams_lost_total", model="noop") == 1


def test_series_start_with_zero() -> None:
    metrics = Metrics()
    ModelTelemetry("noop", metrics)
    assert value(metrics, "received_total", model="noop") == 0
    assert value(metrics, "settled_total", model="noop", outcome="succeeded") == 0


def test_failed_loads_are_counted_by_reason() -> None:
    metrics = Metrics()
    ModelTelemetry("noop", metrics).record_load_failure("weights-missing")
    assert value(metrics, "model_load_failures_total", model="noop", reason="weights-missing") == 1


def test_gauges_are_read_at_each_scrape() -> None:
    metrics, held = Metrics(), [1, 2]
    noop = ModelTelemetry("noop", metrics)
    noop.watch(
        in_flight=lambda: len(held),
        is_loaded=lambda: True,
        is_connected=lambda: False,
        reserved_bytes=lambda: 3e9,
        is_set_aside=lambda: True,
    )
    metrics.watch_memory_used(lambda: 2e9)
    held.append(3)
    assert value(metrics, "jobs_in_hand", model="noop") == 3
    assert value(metrics, "model_loaded", model="noop") == 1
    assert value(metrics, "model_set_aside", model="noop") == 1
    assert value(metrics, "queue_connected", model="noop") == 0
    assert value(metrics, "device_memory_reserved_bytes", model="noop") == 3e9
    assert value(metrics, "device_memory_used_bytes") == 2e9


def test_device_is_described_once_it_is_known() -> None:
    metrics, labels = Metrics(), dict[str, str]()
    metrics.watch_device(lambda: labels)
    assert b"device_info{" not in metrics.exposition("")[0]
    labels.update(device="Tesla T4", driver="580.126.09", cuda="13.0", torch="2.13.0")
    expected = (
        b'loosely_worker_device_info{cuda="13.0",device="Tesla T4",driver="580.126.09",'
        b'torch="2.13.0"} 1.0'
    )
    assert expected in metrics.exposition("")[0]


def test_unknown_outcomes_share_one_series() -> None:
    metrics = Metrics()
    noop = ModelTelemetry("noop", metrics)
    for number in range(100):
        noop.record_outcome(f"code-{number}")
    assert value(metrics, "settled_total", model="noop", outcome="other") == 100
    noop.record_outcome(NewModelsRefusal.code)
    assert value(metrics, "settled_total", model="noop", outcome="code-1") is None


def test_registries_are_independent() -> None:
    one, other = Metrics(), Metrics()
    ModelTelemetry("noop", one).record_received(0, 0)
    ModelTelemetry("noop", other)
    assert value(other, "received_total", model="noop") == 0


def test_accept_header_chooses_the_format() -> None:
    metrics = Metrics()
    ModelTelemetry("noop", metrics).record_received(0, 1)
    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = openmetrics(body.decode())  # type: ignore[no-untyped-call]  # has no types
    assert "loosely_worker_received" in {family.name for family in families}
    body, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    names = {family.name for family in plain(body.decode())}
    assert {"loosely_worker_queue_wait_seconds", "loosely_worker_received"} <= names
    assert "process_resident_memory_bytes" in names


DOCUMENT = Path(__file__).parents[3] / "docs/reference/observability.md"
ROW = re.compile(r"^\| `(loosely_worker_\w+)` \| (\w+) \| ([\w, ]*) ?\| (.+) \|$", re.MULTILINE)


def test_documented_metrics_are_those_of_the_worker() -> None:
    told = {
        (name, kind, labels.strip(), text)
        for name, kind, labels, text in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    }
    assert told == set(metrics())


def metrics() -> list[tuple[str, str, str, str]]:
    collectors = Metrics().registry._collector_to_names
    ours = [one for one in collectors if isinstance(one, MetricWrapperBase)]
    return [
        (
            one._name + ("_total" if isinstance(one, Counter) else ""),
            str(one._type),
            ", ".join(one._labelnames),
            one._documentation,
        )
        for one in ours
    ]
