"""Test deadlines, waits and cancellations while no worker runs."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusClient

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deadlines") / "data"


@pytest.fixture(scope="module")
def workerless(data: Path) -> Iterator[System]:
    with running(data, without=("worker",)) as started:
        yield started


def queued_request(system: System, job_id: str) -> Any:
    """Return the JSON of the job's request in the queue, or None if the request is not there."""
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_receiver("noop") as receiver,
    ):
        messages = receiver.peek_messages(max_message_count=100)
    bodies = [json.loads(str(found)) for found in messages if found.message_id == job_id]
    return next(iter(bodies), None)


def test_late_reply_leaves_the_job_expired(workerless: System) -> None:
    answer = workerless.http.post(
        "/v1/models/noop/jobs",
        params={"deadline_seconds": 10},
        content=b"too late",
        headers={"content-type": "text/plain", "prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    request = until(lambda: queued_request(workerless, job_id), 30, "the job was sent")
    reply_url = request["reply_to"]["url"]
    expired = workerless.final(job_id)
    assert expired["status"] == "expired"
    now = "2026-01-01T00:00:00Z"
    late = {"schema": 1, "job_id": job_id, "result": {"json": 1}, "started_at": now}
    answer = httpx.post(reply_url, json={**late, "finished_at": now})
    assert answer.status_code == 410
    assert workerless.job(job_id) == expired


def test_waiting_request_gets_504(workerless: System) -> None:
    answer = workerless.http.post(
        "/v1/models/noop/jobs",
        params={"deadline_seconds": 1},
        content=b"too late",
        headers={"content-type": "text/plain"},
    )
    assert answer.status_code == 504
    assert answer.json()["code"] == "expired"


def test_job_cancelled_in_the_queue_ends_cancelled(workerless: System) -> None:
    job_id = workerless.accept("noop", b"never mind")
    assert workerless.http.delete(f"/v1/jobs/{job_id}").status_code == 202
    assert workerless.final(job_id)["status"] == "cancelled"
    assert workerless.http.delete(f"/v1/jobs/{job_id}").status_code == 200


def test_wait_of_1_second_gets_202_then_succeeds(workerless: System, data: Path) -> None:
    asked = time.monotonic()
    answer = workerless.submit("noop", b"later", prefer="wait=1")
    waited_seconds = time.monotonic() - asked
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=1"
    # The deadline of the job is much later.
    assert 0.9 < waited_seconds < 15
    job_id = answer.json()["id"]
    assert workerless.job(job_id)["status"] == "queued"
    workerless.stop()
    environment = {"WORKER_MODELS": "noop"}
    with running(data, port=workerless.port, environment=environment) as whole:
        job = whole.final(job_id)
        assert job["status"] == "succeeded"
        assert job["result"]["size_bytes"] == len(b"later")
