"""Test progress, cancellation, versions and webhooks of jobs on one system without torch."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.e2e.slow_job import CATALOGUE as SLOW
from tests.e2e.slow_job import SlowJob
from tests.e2e.system import System, running, until
from tests.e2e.webhook_receiver import NEW, OLD, SETTINGS, WebhookReceiver, run_webhook_receiver
from tests.http_server import Response

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = """
[noop]
description = "Returns the digest of its input."
implementation = "worker.models.noop"
media_types = ["application/octet-stream", "text/plain", "image/jpeg"]
max_wait_ms = 0

[split]
implementation = "tests.e2e.versioned_model"
description = "Half of its jobs run on version 2."
media_types = ["application/octet-stream"]
options = {answer = "one"}
max_delivery_count = 1
versions = {"1" = 50, "2" = 50}

[split."2"]
options = {answer = "two"}

[falling]
implementation = "tests.e2e.versioned_model"
description = "Its version 2 cannot be loaded."
media_types = ["application/octet-stream"]
options = {answer = "one"}
versions = {"2" = 100}
fallback = "1"

[falling."2"]
options = {answer = "broken"}
"""
ANSWERS = {"1": "one", "2": "two"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {
        **SETTINGS,
        # Slow jobs raise the estimated wait above the deadlines of later jobs.
        "ACCEPT_WHEN_SATURATED": "true",
    }
    data = tmp_path_factory.mktemp("jobs") / "data"
    with running(data, CATALOGUE + SLOW, environment=environment) as started:
        yield started


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with run_webhook_receiver() as server:
        yield server


def test_running_job_shows_progress(system: System, tmp_path: Path) -> None:
    job = SlowJob(system, tmp_path / "job", steps=4)
    started = job.wait_for("running")
    assert started["started_at"] is not None
    job.step(1)
    quarter = job.wait_for("running", 0.25)
    assert quarter["progress"]["message"] == "step 1 of 4"
    assert quarter["started_at"] == started["started_at"]
    for number in (2, 3, 4):
        job.step(number)
    final = system.final(job.id)
    assert (final["status"], final["result"]) == ("succeeded", {"steps": 4})
    assert final["progress"] is None
    assert job.look() == final
    job.check_statuses()


def test_cancelled_run_stops_at_the_next_step(system: System, tmp_path: Path) -> None:
    job = SlowJob(system, tmp_path / "job")
    job.wait_for("running")
    following = SlowJob(system, tmp_path / "following", steps=1)
    following.step(1)
    answer = system.http.delete(f"/v1/jobs/{job.id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert job.look()["status"] == "cancelling"
    assert system.http.delete(f"/v1/jobs/{job.id}").status_code == 202
    job.step(1)
    cancelled = until(lambda: (found := job.look())["finished_at"] and found, 15, "job cancelled")
    assert cancelled["status"] == "cancelled"
    assert cancelled["started_at"] is not None
    job.check_statuses()
    assert job.statuses.count("cancelling") >= 1
    # The device is free, and the job does not run again.
    assert system.final(following.id)["status"] == "succeeded"
    assert (job.folder / "running").exists()
    (job.folder / "running").unlink()
    assert system.http.delete(f"/v1/jobs/{job.id}").json() == cancelled
    assert not job.is_running()


def test_job_cancelled_in_the_queue_does_not_run(system: System, tmp_path: Path) -> None:
    ahead = SlowJob(system, tmp_path / "ahead", steps=1)
    ahead.wait_for("running")
    waiting = [SlowJob(system, tmp_path / str(number), steps=1) for number in range(4)]
    for job in waiting[:3]:
        assert system.http.delete(f"/v1/jobs/{job.id}").status_code == 202
        assert system.final(job.id)["status"] == "cancelled"
    waiting[3].step(1)
    ahead.step(1)
    assert system.final(waiting[3].id)["status"] == "succeeded"
    assert [job.is_running() for job in waiting] == [False, False, False, True]


def test_expired_run_shows_its_start(system: System, tmp_path: Path) -> None:
    job = SlowJob(system, tmp_path / "job", deadline_seconds=8)
    job.wait_for("running")
    expired = system.final(job.id)
    assert expired["status"] == "expired"
    assert expired["started_at"] is not None
    assert (expired["error"]["code"], expired["error"]["stage"]) == ("expired", "run")
    following = SlowJob(system, tmp_path / "following", steps=1)
    following.step(1)
    assert system.final(following.id)["status"] == "succeeded", (
        "the worker did not stop the expired job and run the next job"
    )


def test_job_shows_the_version_that_ran_it(system: System) -> None:
    seen = set()
    for _ in range(20):
        job = system.submit("split", b"x").json()
        assert (job["model"], job["status"]) == ("split", "succeeded")
        assert job["result"] == {"answer": ANSWERS[job["version"]]}
        seen.add(job["version"])
    assert seen == {"1", "2"}
    for version, answer in ANSWERS.items():
        job = system.submit(f"split:{version}", b"x").json()
        assert (job["version"], job["result"]) == (version, {"answer": answer})


def test_fallback_runs_while_a_version_cannot_load(system: System) -> None:
    job = system.submit("falling", b"x", prefer="wait=60").json()
    assert (job["version"], job["status"]) == ("1", "succeeded")
    assert job["result"] == {"answer": "one"}


def test_redriven_job_runs_on_the_same_version(system: System) -> None:
    job_id = system.accept("split:2", b"die")
    job = system.final(job_id)
    assert (job["version"], job["error"]["code"]) == ("2", "dead-lettered")

    def stored() -> dict[str, Any] | None:
        # A job that was answered just before the kill, and not settled, is a dead letter too.
        page = system.http.get("/v1/admin/dead-letters", params={"model": "split"}).json()
        return next((each for each in page["dead_letters"] if each["job_id"] == job_id), None)

    letter = until(stored, 30, "the dead letter is stored")
    assert (letter["model"], letter["queue"]) == ("split:2", "split-v2")
    redriven = system.http.post(letter["links"]["redrive"]).json()["job_id"]
    again = system.final(redriven)
    assert (again["version"], again["error"]["code"]) == ("2", "dead-lettered")


def submit(system: System, envelope: dict[str, Any], **headers: str) -> httpx.Response:
    return system.http.post("/v1/models/noop/jobs", json=envelope, headers=headers)


def delivery(system: System, job_id: str) -> dict[str, Any]:
    answer = system.http.get(f"/v1/jobs/{job_id}/webhook")
    assert answer.status_code == 200, answer.text
    log: dict[str, Any] = answer.json()
    return log


def test_webhook_arrives_after_failures_and_a_kill(
    system: System, receiver: WebhookReceiver
) -> None:
    receiver.received.clear()
    receiver.statuses = [500, 302, 503]
    webhook = {"url": receiver.url("/hook?token=very-hidden")}
    answer = submit(system, {"input": {"text": "hello"}, "webhook": webhook})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    until(lambda: receiver.refused, 20, "the first attempt has failed")
    system.kill_and_wait("functions")
    until(lambda: receiver.received, 60, "the webhook is delivered")
    headers, body = receiver.received[0]
    for secret in (OLD, NEW):
        assert Webhook(secret).verify(body, headers) == system.job(job["id"])
    log = until(
        lambda: (found := delivery(system, job["id"]))["state"] == "delivered" and found,
        20,
        "the log shows the delivery",
    )
    assert [attempt["status"] for attempt in log["attempts"]][-2:] == [503, 200]
    assert "secret of the receiver" not in json.dumps(log)

    again = system.http.post(f"/v1/admin/jobs/{job['id']}/webhook/redeliver")
    assert again.status_code == 202, again.text
    until(lambda: len(receiver.received) == 2, 20, "the webhook is delivered again")
    assert receiver.received[1][0]["webhook-id"] == headers["webhook-id"]
    assert receiver.received[1][1] == body
    logs = "".join(path.read_text() for path in (system.data / "logs").glob("*.log"))
    assert "very-hidden" not in logs


def test_worker_fetches_an_input_by_url(
    system: System, receiver: WebhookReceiver, pictures: Path
) -> None:
    picture = (pictures / "chelsea.jpg").read_bytes()
    receiver.files |= {
        "/cat": Response(200, picture, {"content-type": "application/octet-stream"}),
        "/moved": Response(302, headers={"location": "/cat"}),
    }
    for path in ("/cat", "/moved"):
        job = submit(system, {"input": {"url": receiver.url(path)}}).json()
        assert job["status"] == "succeeded", job
        assert job["result"]["sha256"] == hashlib.sha256(picture).hexdigest()
