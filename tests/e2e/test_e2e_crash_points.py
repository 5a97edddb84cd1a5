"""The gateway's host dies at named points in the life of a job, with histories as in Azure Storage.

The local host has the Azure Storage provider's order of things (`--engine azure-storage`): an
episode's messages go out before its history is saved, what a dead host had taken comes back after
the visibility timeout, and an event for an instance without a history is discarded. With a long
timeout an answer that needs the engine to recover would come too late for these tests.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from contract.webhook import event_id
from tests.e2e.system import System, until
from tests.e2e.test_e2e_progress import CATALOGUE, Job
from tests.e2e.test_e2e_webhooks import SETTINGS, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SHORT_SECONDS = 3
"""A visibility timeout for tests in which the engine has to recover."""

LONG_SECONDS = 100
"""One for tests in which nobody may wait for the engine."""

ANSWERED_WITHIN_SECONDS = 30.0
"""Far below LONG_SECONDS; the host's restart is a part of it."""


@contextmanager
def crashing(
    folder: Path,
    *points: str,
    timeout_seconds: float = SHORT_SECONDS,
    catalogue: Path | None = None,
    without: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[System]:
    """A system whose host dies once at each of these points."""
    options = ["--engine", "azure-storage", "--visibility-timeout", str(timeout_seconds)]
    for point in points:
        options += ["--crash-at", point]
    models = {} if catalogue else {"WORKER_MODELS": "noop"}
    system = System(
        folder / "data",
        catalogue=catalogue,
        without=without,
        environment={**models, **(environment or {})},
        options=tuple(options),
    )
    try:
        yield system.start()
    finally:
        system.stop()


@contextmanager
def one_death(system: System) -> Iterator[None]:
    """Check that the host died within the block."""
    before = system.part("functions").pid
    yield
    until(lambda: system.part("functions").pid != before, 20, "the host died and came back")


def submit(system: System) -> str:
    return system.accept_at_last("noop", b"x")


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-send:job", id="before-the-first-send"),
        pytest.param("before-save:job", id="between-send-and-save"),
        pytest.param("before-delete:job", id="between-save-and-delete"),
        pytest.param("before-activity:enqueue", id="before-the-request-is-enqueued"),
        pytest.param("after-activity:enqueue", id="after-the-request-is-enqueued"),
    ],
)
def test_a_job_succeeds_though_the_host_died_at(tmp_path: Path, point: str) -> None:
    with crashing(tmp_path, point) as system:
        with one_death(system):
            job_id = submit(system)
        job = system.final(job_id)
        assert job["status"] == "succeeded", job
        assert system.job(job_id) == job
        system.wait_until_empty()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-save-after-event:reply", id="between-reply-and-save"),
        pytest.param("before-event:reply", id="between-the-final-record-and-the-event"),
        pytest.param("after-event:reply", id="right-after-the-event"),
    ],
)
def test_a_reply_answers_without_waiting_for_the_engine_though_the_host_died(
    tmp_path: Path, point: str
) -> None:
    with crashing(tmp_path, point, timeout_seconds=LONG_SECONDS) as system:
        begun = time.monotonic()
        with one_death(system):
            job_id = submit(system)
        job = system.final(job_id, seconds=ANSWERED_WITHIN_SECONDS)
        assert job["status"] == "succeeded", job
        assert time.monotonic() - begun < ANSWERED_WITHIN_SECONDS
        assert system.http.get(f"/v1/jobs/{job_id}/result").status_code == 200
        assert system.job(job_id) == job
        system.wait_until_empty()


def test_a_job_with_a_deadline_of_60_seconds_ends_by_its_reply_though_the_host_died(
    tmp_path: Path,
) -> None:
    point = "before-save-after-event:reply"
    with crashing(tmp_path, point, timeout_seconds=LONG_SECONDS) as system:
        with one_death(system):
            answer = system.http.post(
                "/v1/models/noop/jobs",
                params={"deadline_seconds": 60},
                content=b"x",
                headers={"content-type": "application/octet-stream", "prefer": "respond-async"},
            )
            assert answer.status_code == 202
        job = system.final(answer.json()["id"], seconds=ANSWERED_WITHIN_SECONDS)
        assert job["status"] == "succeeded", job


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-event:reply", id="between-the-record-and-the-event"),
        pytest.param("after-event:reply", id="right-after-the-event"),
        pytest.param("before-save-after-event:reply", id="before-there-is-a-history"),
    ],
)
def test_a_cancellation_holds_though_the_host_died(tmp_path: Path, point: str) -> None:
    without = ("worker",)
    with crashing(tmp_path, point, timeout_seconds=LONG_SECONDS, without=without) as system:
        with one_death(system):
            job_id = submit(system)
            # Its answer may be lost with the host.
            answered = until(lambda: cancel(system, job_id), 30, "the job is cancelled")
        assert answered in {"cancelling", "cancelled"}
        assert system.final(job_id, seconds=ANSWERED_WITHIN_SECONDS)["status"] == "cancelled"


def cancel(system: System, job_id: str) -> str | None:
    """The status that a DELETE was answered with; None while the gateway is away."""
    try:
        answer = system.http.delete(f"/v1/jobs/{job_id}")
    except httpx.TransportError:
        return None
    return str(answer.json()["status"]) if answer.status_code in {200, 202} else None


def test_a_running_job_stops_though_the_order_was_lost_with_the_host(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(CATALOGUE, encoding="utf-8")
    with crashing(tmp_path, "before-event:cancel", catalogue=catalogue) as system:
        with one_death(system):
            job = Job(system, tmp_path / "job")
            until((job.folder / "running").exists, 30, "the job runs")
            (job.folder / "step-1").touch()
            until(lambda: job.look()["status"] == "running", 30, "the job reports")
            until(lambda: cancel(system, job.id), 30, "the job is cancelled")
        assert system.final(job.id, seconds=60)["status"] == "cancelled"


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before-activity:announce_webhook", id="before-the-announcement"),
        pytest.param("after-activity:announce_webhook", id="after-the-announcement"),
        pytest.param("before-event:reply", id="before-the-event"),
        pytest.param("before-save-after-event:reply", id="before-there-is-a-history"),
    ],
)
def test_a_webhook_is_delivered_though_the_host_died(tmp_path: Path, point: str) -> None:
    with serving() as receiver, crashing(tmp_path, point, environment=SETTINGS) as system:
        with one_death(system):
            answer = system.http.post(
                "/v1/models/noop/jobs",
                json={"input": {"text": "x"}, "webhook": {"url": receiver.url("/hook")}},
                headers={"prefer": "respond-async"},
            )
            assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        assert system.final(job_id)["status"] == "succeeded"
        until(lambda: receiver.taken, 60, "the webhook came")
        # At least once, and each time as the same event.
        assert {headers["webhook-id"] for headers, _ in receiver.taken} == {event_id(job_id)}


def test_200_jobs_cancelled_right_after_their_202_stay_cancelled(tmp_path: Path) -> None:
    with crashing(tmp_path, timeout_seconds=LONG_SECONDS, without=("worker",)) as system:
        job_ids = []
        for _ in range(200):
            job_id = submit(system)
            assert system.http.delete(f"/v1/jobs/{job_id}").status_code in {200, 202}
            job_ids.append(job_id)
        assert {system.job(job_id)["status"] for job_id in job_ids} == {"cancelled"}
