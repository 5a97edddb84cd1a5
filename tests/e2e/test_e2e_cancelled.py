"""Test that jobs do not run if they are cancelled before a worker starts."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.system import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

JOB_COUNT = 200
CANCELLED_COUNT = 150

CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
deadline_seconds = 120
"""


def test_queued_jobs_do_not_run(tmp_path: Path) -> None:
    catalogue, ran = tmp_path / "models.toml", tmp_path / "ran"
    catalogue.write_text(CATALOGUE)
    data = tmp_path / "data"
    with running(data, catalogue, without=("worker",)) as system, ThreadPoolExecutor(8) as pool:

        def accept(number: int) -> str:
            return system.accept("counting", f"{ran} {number}".encode(), content_type="text/plain")

        def cancel(job_id: str) -> int:
            return system.http.delete(f"/v1/jobs/{job_id}").status_code

        jobs = list(pool.map(accept, range(JOB_COUNT)))
        # Keep every fourth job, so that jobs that run are between cancelled jobs.
        cancelled = [job_id for number, job_id in enumerate(jobs) if number % 4]
        assert len(cancelled) == CANCELLED_COUNT
        assert set(pool.map(cancel, cancelled)) == {202}
    with running(data, catalogue, port=system.port) as system:
        ended = {job_id: system.final(job_id)["status"] for job_id in jobs}
    assert [job_id for job_id in jobs if ended[job_id] == "cancelled"] == cancelled
    assert list(ended.values()).count("succeeded") == JOB_COUNT - CANCELLED_COUNT
    numbers = [int(line) for line in ran.read_text("utf-8").split()]
    assert sorted(numbers) == list(range(0, JOB_COUNT, 4))
