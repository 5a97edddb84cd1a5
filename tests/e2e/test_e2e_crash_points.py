"""Kill the Functions host at named points of a job's orchestration, and check how the job ends.

With `--engine azure-storage`, the local host behaves as with the Azure Storage provider of Durable
Functions:

- After a call of the orchestrator, the host sends the messages before it saves the history.
- Messages that a killed host has received are delivered again after the visibility timeout.
- An event for an orchestration without a history is discarded.

In some tests, the visibility timeout is longer than the test. So the test fails if the job's reply
must wait until the messages of the killed host are delivered again.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contract.webhook import event_id
from tests.e2e.slow_job import CATALOGUE, SlowJob
from tests.e2e.system import System, until
from tests.e2e.webhook_receiver import SETTINGS, run_webhook_receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SHORT_SECONDS = 3
"""The visibility timeout, in seconds, of tests that wait until the engine has recovered.

The engine recovers when the messages that a killed host has dequeued are visible again.
"""

LONG_SECONDS = 100
"""The visibility timeout, in seconds, of tests that end before the engine has recovered."""

ANSWERED_WITHIN_SECONDS = 60.0
"""How many seconds a job may take in a test whose visibility timeout is LONG_SECONDS.

The time includes the restart of the host.
"""


@contextmanager
def run_crashing_system(
    folder: Path,
    *points: str,
    timeout_seconds: float = SHORT_SECONDS,
    catalogue: str | None = None,
    without: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[System]:
    """Run a system whose Functions host dies once at each crash point in `points`."""
    faults = [f"--visibility-timeout {timeout_seconds}", *(f"--crash-at {each}" for each in points)]
    models = {} if catalogue else {"WORKER_MODELS": "noop"}
    system = System(
        folder / "data",
        catalogue=catalogue,
        without=without,
        environment={
            "LOCAL_FUNCTIONS_OPTIONS": " ".join(faults),
            **models,
            **(environment or {}),
        },
        options=("--engine", "azure-storage"),
    )
    try:
        yield system.start()
    finally:
        system.stop()


@contextmanager
def expect_host_death(system: System) -> Iterator[None]:
    before = system.part("functions").pid
    yield
    until(lambda: system.part("functions").pid != before, 20, "the host died and was replaced")


def submit(system: System) -> str:
    return system.accept_at_last("noop", b"x")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-start:job", id="between-the-message-and-the-start"),
        pytest.param("after-start:job", id="right-after-the-start"),
        pytest.param("before-send:job", id="before-the-first-send"),
        pytest.param("before-save:job", id="between-send-and-save"),
        pytest.param("before-delete:job", id="between-save-and-delete"),
    ],
)
def test_death_at_the_orchestrations_start(tmp_path: Path, point: str) -> None:
    with run_crashing_system(tmp_path, point) as system:
        with expect_host_death(system):
            job_id = submit(system)
        job = system.final(job_id)
        assert job["status"] == "succeeded", job
        assert system.job(job_id) == job
        system.wait_until_empty()


@pytest.mark.thorough
@pytest.mark.parametrize("point", ["before-activity:enqueue", "after-activity:enqueue"])
def test_death_while_service_bus_is_unavailable(tmp_path: Path, point: str) -> None:
    with run_crashing_system(tmp_path, point) as system:
        with expect_host_death(system), system.paused("servicebus"):
            job_id = submit(system)
        job = system.final(job_id)
        assert job["status"] == "succeeded", job
        system.wait_until_empty()


def test_repeated_requests_create_one_job(tmp_path: Path) -> None:
    with run_crashing_system(tmp_path, "before-start:job") as system:
        headers = {"content-type": "application/octet-stream", "idempotency-key": "one"}

        def answer() -> httpx.Response | None:
            try:
                found = system.http.post("/v1/models/noop/jobs", content=b"x", headers=headers)
            except httpx.TransportError:
                return None
            return found if found.status_code == 200 else None

        with expect_host_death(system):
            first = until(answer, 30, "the job is answered")
        again = system.http.post("/v1/models/noop/jobs", content=b"x", headers=headers)
        assert again.json() == first.json()
        # The message of the first request was not sent twice.
        assert [job["id"] for job in system.http.get("/v1/jobs").json()["jobs"]] == [
            first.json()["id"]
        ]
        system.wait_until_empty()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-save-after-event:reply", id="between-reply-and-save"),
        pytest.param(
            "before-event:reply",
            id="between-the-final-record-and-the-event",
            marks=pytest.mark.thorough,
        ),
        pytest.param("after-event:reply", id="right-after-the-event", marks=pytest.mark.thorough),
    ],
)
def test_result_comes_before_the_recovery(tmp_path: Path, point: str) -> None:
    with run_crashing_system(tmp_path, point, timeout_seconds=LONG_SECONDS) as system:
        begun = time.monotonic()
        with expect_host_death(system):
            job_id = submit(system)
        job = system.final(job_id, seconds=ANSWERED_WITHIN_SECONDS)
        assert job["status"] == "succeeded", job
        assert time.monotonic() - begun < ANSWERED_WITHIN_SECONDS
        assert system.http.get(f"/v1/jobs/{job_id}/result").status_code == 200
        assert system.job(job_id) == job
        system.wait_until_empty()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-event:reply", id="between-the-record-and-the-event"),
        pytest.param("after-event:reply", id="right-after-the-event", marks=pytest.mark.thorough),
        pytest.param(
            "before-save-after-event:reply",
            id="before-there-is-a-history",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_cancelled_job_stays_cancelled(tmp_path: Path, point: str) -> None:
    without = ("worker",)
    with run_crashing_system(
        tmp_path, point, timeout_seconds=LONG_SECONDS, without=without
    ) as system:
        with expect_host_death(system):
            job_id = submit(system)
            # The response to the first DELETE may be lost with the host.
            until(lambda: cancel(system, job_id), 30, "the job is cancelled")
        assert system.final(job_id, seconds=ANSWERED_WITHIN_SECONDS)["status"] == "cancelled"


def cancel(system: System, job_id: str) -> bool:
    try:
        answer = system.http.delete(f"/v1/jobs/{job_id}")
    except httpx.TransportError:
        return False
    if answer.status_code >= 500:
        return False
    shown = answer.status_code, answer.json()["status"]
    assert shown in {(202, "cancelling"), (200, "cancelled")}
    return True


@pytest.mark.thorough
def test_death_during_the_cancellation_of_a_run(tmp_path: Path) -> None:
    with run_crashing_system(tmp_path, "before-event:cancel", catalogue=CATALOGUE) as system:
        with expect_host_death(system):
            job = SlowJob(system, tmp_path / "job")
            until((job.folder / "running").exists, 30, "the job runs")
            (job.folder / "step-1").touch()
            until(lambda: job.look()["status"] == "running", 30, "the job is running")
            until(lambda: cancel(system, job.id), 30, "the job is cancelled")
        assert system.final(job.id, seconds=60)["status"] == "cancelled"


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-activity:announce_webhook", id="before-the-announcement"),
        pytest.param(
            "after-activity:announce_webhook",
            id="after-the-announcement",
            marks=pytest.mark.thorough,
        ),
        pytest.param("before-event:reply", id="before-the-event", marks=pytest.mark.thorough),
        pytest.param(
            "before-save-after-event:reply",
            id="before-there-is-a-history",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_webhook_is_delivered(tmp_path: Path, point: str) -> None:
    with (
        run_webhook_receiver() as receiver,
        run_crashing_system(tmp_path, point, environment=SETTINGS) as system,
    ):
        with expect_host_death(system):
            request = {"input": {"text": "x"}, "webhook": {"url": receiver.url("/hook")}}
            # The host may die before it answers the first request.
            job_id = system.accept_at_last(
                "noop",
                json.dumps(request).encode(),
                media_type="application/json",
                idempotency_key="one",
            )
        assert system.final(job_id)["status"] == "succeeded"
        until(lambda: receiver.received, 60, "the webhook came")
        # Delivered at least once, each time with the same event id.
        assert {headers["webhook-id"] for headers, _ in receiver.received} == {event_id(job_id)}


@pytest.mark.thorough
def test_200_jobs_cancelled_at_once_stay_cancelled(tmp_path: Path) -> None:
    with run_crashing_system(tmp_path, timeout_seconds=LONG_SECONDS, without=("worker",)) as system:
        job_ids = []
        for _ in range(200):
            job_id = submit(system)
            assert system.http.delete(f"/v1/jobs/{job_id}").status_code == 202
            job_ids.append(job_id)
        assert {system.job(job_id)["status"] for job_id in job_ids} == {"cancelled"}
