"""Test webhooks, and inputs that the worker downloads from a URL."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.e2e.system import System, running, until
from tests.e2e.webhook_receiver import NEW, OLD, SETTINGS, WebhookReceiver, run_webhook_receiver
from tests.http_server import Response

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with run_webhook_receiver() as server:
        yield server


@pytest.fixture(scope="module")
def webhook_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {**SETTINGS, "WORKER_MODELS": "noop"}
    with running(tmp_path_factory.mktemp("webhooks") / "data", environment=environment) as system:
        yield system


def submit(system: System, envelope: dict[str, Any], **headers: str) -> httpx.Response:
    return system.http.post("/v1/models/noop/jobs", json=envelope, headers=headers)


def delivery(system: System, job_id: str) -> dict[str, Any]:
    answer = system.http.get(f"/v1/jobs/{job_id}/webhook")
    assert answer.status_code == 200, answer.text
    log: dict[str, Any] = answer.json()
    return log


def test_webhook_arrives_after_failures_and_a_kill(
    webhook_system: System, receiver: WebhookReceiver
) -> None:
    receiver.received.clear()
    receiver.statuses = [500, 302, 503]
    webhook = {"url": receiver.url("/hook?token=very-hidden")}
    answer = submit(webhook_system, {"input": {"text": "hello"}, "webhook": webhook})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    until(lambda: receiver.refused, 20, "the first attempt has failed")
    webhook_system.kill_and_wait("functions")
    until(lambda: receiver.received, 60, "the webhook is delivered")
    headers, body = receiver.received[0]
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(body, headers) == webhook_system.job(job["id"])
    log = until(
        lambda: (found := delivery(webhook_system, job["id"]))["state"] == "delivered" and found,
        20,
        "the log shows the delivery",
    )
    assert [attempt["status"] for attempt in log["attempts"]][-2:] == [503, 200]
    assert "secret of the receiver" not in json.dumps(log)

    again = webhook_system.http.post(f"/v1/admin/jobs/{job['id']}/webhook/redeliver")
    assert again.status_code == 202, again.text
    until(lambda: len(receiver.received) == 2, 20, "the webhook is delivered again")
    assert receiver.received[1][0]["webhook-id"] == headers["webhook-id"]
    assert receiver.received[1][1] == body
    logs = "".join(path.read_text() for path in (webhook_system.data / "logs").glob("*.log"))
    assert "very-hidden" not in logs


def test_worker_fetches_an_input_by_url(
    webhook_system: System, receiver: WebhookReceiver, pictures: Path
) -> None:
    picture = (pictures / "chelsea.jpg").read_bytes()
    receiver.files |= {
        "/cat": Response(200, picture, {"content-type": "application/octet-stream"}),
        "/moved": Response(302, headers={"location": "/cat"}),
    }
    for path in ("/cat", "/moved"):
        job = submit(webhook_system, {"input": {"url": receiver.url(path)}}).json()
        assert job["status"] == "succeeded", job
        assert job["result"]["sha256"] == hashlib.sha256(picture).hexdigest()
