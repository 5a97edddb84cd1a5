"""Test the telemetry of a running worker: metrics, readiness, log lines and spans."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusMessage

from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_metadata import Metadata, run_metadata
from tests.conformance.worker.worker_metrics import ScrapedMetrics
from tests.conformance.worker.worker_services import (
    START_SECONDS,
    LocalServices,
    Program,
    job_id,
    message,
    receive,
    submit,
    take,
    wait_until,
)

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]

SECRETS = ("secret-token", "SAS_KEY_VALUE", "Eby8vdM02xNOcqFlqUwJ", "SharedAccessKey=", "sig=")
TRACE_ID = "ab" * 16


def ready(worker: Program) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(worker.probe, timeout=START_SECONDS)
    return answer.status_code, answer.json()


def gated(folder: Path) -> tuple[dict[str, Any], Callable[[], None], Callable[[], bool]]:
    """Return the input of a job that waits while it runs, and two functions to control the job."""
    gate, running = folder / "gate", folder / "running"
    return {"do": "wait", "running": str(running), "gate": str(gate)}, gate.touch, running.exists


def remove_messages(
    services: LocalServices, queue: str, count: int
) -> dict[str | None, int | None]:
    """Remove `count` messages from a queue. Return each message's delivery count by message id."""
    with services.receiver(queue) as receiver:
        found = take(receiver, count)
    return {delivered.message_id: delivered.delivery_count for delivered in found}


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with run_metadata() as running:
        yield running


def test_metrics_count_jobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    task, let_go, runs = gated(tmp_path)
    # The locks of this model's messages are not lost even if the machine is busy.
    again, good, bad, refused = job_id(), [job_id() for _ in range(3)], job_id(), job_id()
    services.send("patient", message(gateway, again, "patient", {"do": "answer"}))
    with services.receiver("patient") as receiver:
        (delivered,) = receive(receiver, 1)
        receiver.abandon_message(delivered)
    services.send(
        "patient",
        *(message(gateway, identity, "patient", {"do": "answer"}) for identity in good),
        message(gateway, bad, "patient", {"do": "raise"}),
        message(gateway, refused, "patient", {"do": "refuse"}),
        ServiceBusMessage(b"nonsense", message_id=job_id()),
    )
    worker = start_worker("patient,together")
    for identity in (again, *good, bad, refused):
        gateway.taken(identity)
    services.wait_until_empty("patient")
    (held,) = submit(services, gateway, "patient", task)
    wait_until(runs, "a job runs")

    metrics = ScrapedMetrics(worker)
    try:
        assert metrics.value("received_total", model="patient") == 8
        assert metrics.value("redeliveries_total", model="patient") == 1
        assert metrics.outcomes("patient") == {
            "succeeded": 4,
            "inference-failed": 1,
            "invalid-input": 1,
            "malformed-message": 1,
        }
        assert metrics.value("jobs_in_hand", model="patient") == 1
        assert metrics.value("model_loaded", model="patient") == 1
        assert metrics.value("queue_connected", model="patient") == 1
        assert metrics.value("model_loads_total", model="patient") == 1
        assert metrics.value("model_unloads_total", model="patient") == 0
        assert metrics.value("queue_wait_seconds_count", model="patient") == 8
        # Batches that raise are not counted.
        assert metrics.value("batch_size_count", model="patient") == 4
        assert metrics.value("batch_size_sum", model="patient") == 4
        assert metrics.value("inference_seconds_count", model="patient") == 4
        assert metrics.value("results_at_hand_total", model="patient") == 0
        assert metrics.value("lock_losses_total", model="patient") == 0
        assert metrics.value("out_of_memory_splits_total", model="patient") == 0
        assert metrics.value("device_memory_reserved_bytes", model="patient") == 0
        assert metrics.value("device_memory_used_bytes") == 0
    finally:
        let_go()
    gateway.taken(held)
    wait_until(
        lambda: ScrapedMetrics(worker).value("jobs_in_hand", model="patient") == 0, "all is settled"
    )
    (tmp_path / "together").mkdir()
    count_jobs_that_run_together(services, gateway, worker, tmp_path / "together")


def count_jobs_that_run_together(
    services: LocalServices, gateway: Gateway, worker: Program, folder: Path
) -> None:
    task, let_go, runs = gated(folder)
    jobs = [job_id() for _ in range(8)]
    services.send("together", *(message(gateway, i, "together", task) for i in jobs[:4]))
    wait_until(runs, "a full batch runs")
    services.send(
        "together", *(message(gateway, i, "together", {"do": "answer"}) for i in jobs[4:])
    )

    def held() -> float:
        return ScrapedMetrics(worker).value("jobs_in_hand", model="together")

    wait_until(lambda: held() == 8, "the worker holds all jobs")
    let_go()
    for identity in jobs:
        gateway.taken(identity)
    wait_until(lambda: held() == 0, "all is settled")
    metrics = ScrapedMetrics(worker)
    assert metrics.value("batch_size_sum", model="together") == 8
    assert metrics.value("batch_size_count", model="together") == 2
    assert metrics.outcomes("together") == {"succeeded": 8}


def test_announced_end_shuts_down(
    services: LocalServices,
    gateway: Gateway,
    start_worker: StartWorker,
    metadata: Metadata,
    tmp_path: Path,
) -> None:
    task, let_go, runs = gated(tmp_path)
    worker = start_worker(
        "single", WORKER_SCHEDULED_EVENTS="acknowledge", WORKER_METADATA_URL=metadata.address
    )
    jobs = [job_id() for _ in range(3)]
    services.send("single", message(gateway, jobs[0], "single", task))
    wait_until(runs, "a job runs")
    services.send("single", *(message(gateway, i, "single", task) for i in jobs[1:]))
    wait_until(lambda: worker.held("single") == 2, "one runs, one waits")
    status, document = ready(worker)
    assert status == 200
    assert "reason" not in document

    event_id = metadata.announce("Preempt")
    wait_until(lambda: ready(worker)[0] == 503, "the worker is not ready")
    assert (
        ready(worker)[1]["reason"]
        == "draining: Azure has scheduled the event Preempt for this machine"
    )
    assert metadata.started == []
    # A signal from the node during the drain does not end the drain early.
    worker.signal(signal.SIGTERM)
    let_go()
    assert worker.exit_code() == 0
    assert metadata.started == [event_id]
    gateway.taken(jobs[0])
    assert remove_messages(services, "single", 2) == dict.fromkeys(jobs[1:], 0)


def test_log_lines_are_json_without_secrets(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    # A job whose lock is lost would be answered a second time.
    worker = start_worker("patient", LOG_FORMAT="json", LOG_LEVEL="debug")
    jobs = {job_id(): task for task in ("answer", "raise", "refuse", "fail-to-prepare", "no-json")}
    refused, unheard = job_id(), job_id()
    gateway.answers[refused] = [400]
    gateway.answers[unheard] = [0, 503]
    tasks = jobs | {refused: "answer", unheard: "answer"}
    services.send("patient", *(message(gateway, i, "patient", {"do": tasks[i]}) for i in tasks))
    for identity in (*jobs, unheard):
        gateway.taken(identity)
    services.dead_letter("patient", refused)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0

    text = worker.log.read_text()
    assert not [secret for secret in SECRETS if secret in text]
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    told = Counter(line["job_id"] for line in lines if "job_id" in line)
    assert set(told) == {*jobs, refused, unheard}
    about = [line for line in lines if "job_id" in line]
    assert {(line["model"], line["trace_id"]) for line in about} == {("patient", TRACE_ID)}
    assert any("a defect in the model" in line.get("exception", "") for line in about)


def test_spans_go_to_the_selected_exporter(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("single", wait=False, OTEL_TRACES_EXPORTER="console")
    (identity,) = submit(services, gateway, "single", {"do": "answer"})
    gateway.taken(identity)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    spans = {span["name"]: span for span in printed_spans(worker.output.read_text())}
    assert {span["context"]["trace_id"] for span in spans.values()} == {f"0x{TRACE_ID}"}
    process = spans.pop("process single")
    assert set(spans) == {"prepare", "inference", "reply"}
    assert {s["parent_id"] for s in spans.values()} == {process["context"]["span_id"]}
    assert process["parent_id"] == f"0x{'cd' * 8}"
    assert process["attributes"]["messaging.message.id"] == identity
    assert process["attributes"]["loosely.outcome"] == "succeeded"
    # The receiver of the reply can continue the trace.
    assert spans["reply"]["context"]["span_id"][2:] in gateway.traceparents[identity]
    assert not [secret for secret in SECRETS if secret in worker.output.read_text()]


def printed_spans(text: str) -> Iterator[dict[str, Any]]:
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        span, at = decoder.raw_decode(text, at)
        yield span
