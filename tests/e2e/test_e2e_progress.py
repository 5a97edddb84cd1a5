"""Test the progress and the cancellation of long-running jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.slow_job import CATALOGUE, SlowJob
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    # Slow jobs raise the estimated wait above the deadlines of later jobs. Accept them anyway.
    environment = {"ACCEPT_WHEN_SATURATED": "true"}
    with running(
        tmp_path_factory.mktemp("progress") / "data", CATALOGUE, environment=environment
    ) as started:
        yield started


def test_running_job_shows_progress(slow: System, tmp_path: Path) -> None:
    job = SlowJob(slow, tmp_path / "job", steps=4)
    started = job.wait_for("running")
    assert started["started_at"] is not None
    job.step(1)
    quarter = job.wait_for("running", 0.25)
    assert quarter["progress"]["message"] == "step 1 of 4"
    assert quarter["started_at"] == started["started_at"]
    for number in (2, 3, 4):
        job.step(number)
    final = slow.final(job.id)
    assert (final["status"], final["result"]) == ("succeeded", {"steps": 4})
    assert final["progress"] is None
    assert job.look() == final
    job.check_statuses()


def test_cancelled_run_stops_at_the_next_step(slow: System, tmp_path: Path) -> None:
    job = SlowJob(slow, tmp_path / "job")
    job.wait_for("running")
    following = SlowJob(slow, tmp_path / "following", steps=1)
    following.step(1)
    answer = slow.http.delete(f"/v1/jobs/{job.id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert job.look()["status"] == "cancelling"
    assert slow.http.delete(f"/v1/jobs/{job.id}").status_code == 202
    job.step(1)
    cancelled = until(lambda: (found := job.look())["finished_at"] and found, 15, "job cancelled")
    assert cancelled["status"] == "cancelled"
    assert cancelled["started_at"] is not None
    job.check_statuses()
    assert job.statuses.count("cancelling") >= 1
    # The device is free, and the job does not run again.
    assert slow.final(following.id)["status"] == "succeeded"
    assert (job.folder / "running").exists()
    (job.folder / "running").unlink()
    assert slow.http.delete(f"/v1/jobs/{job.id}").json() == cancelled
    assert not job.is_running()


def test_job_cancelled_in_the_queue_does_not_run(slow: System, tmp_path: Path) -> None:
    ahead = SlowJob(slow, tmp_path / "ahead", steps=1)
    ahead.wait_for("running")
    waiting = [SlowJob(slow, tmp_path / str(number), steps=1) for number in range(4)]
    for job in waiting[:3]:
        assert slow.http.delete(f"/v1/jobs/{job.id}").status_code == 202
        assert slow.final(job.id)["status"] == "cancelled"
    waiting[3].step(1)
    ahead.step(1)
    assert slow.final(waiting[3].id)["status"] == "succeeded"
    assert [job.is_running() for job in waiting] == [False, False, False, True]


def test_expired_run_shows_its_start(slow: System, tmp_path: Path) -> None:
    job = SlowJob(slow, tmp_path / "job", deadline_seconds=8)
    job.wait_for("running")
    expired = slow.final(job.id)
    assert expired["status"] == "expired"
    assert expired["started_at"] is not None
    assert (expired["error"]["code"], expired["error"]["stage"]) == ("expired", "run")
    following = SlowJob(slow, tmp_path / "following", steps=1)
    following.step(1)
    assert slow.final(following.id)["status"] == "succeeded", (
        "the worker did not stop the expired job and run the next job"
    )
