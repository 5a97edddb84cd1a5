"""Test that the jobs of a killed worker succeed before their message locks expire."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# Five minutes are the longest lock that Service Bus permits.
CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
deadline_seconds = 900
max_batch_size = 4
lock_seconds = 300
max_delivery_count = 10
"""

# The worker receives up to two batches before a batch ends.
JOB_COUNT = 8
JOB_MS = 500


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("restart") / "data", CATALOGUE) as started:
        yield started


def has_received(system: System, jobs: list[str]) -> bool:
    """Return whether the worker has received the messages of all unfinished jobs in `jobs`."""
    port = system.part("worker").ports["worker health"]
    document = httpx.get(f"http://127.0.0.1:{port}/ready").json()
    unfinished = [job_id for job_id in jobs if not system.job(job_id)["finished_at"]]
    return int(document["models"]["counting"]["held"]) == len(unfinished)


@pytest.mark.parametrize("name", ["worker", "worker parent"])
def test_killed_workers_jobs_do_not_wait_for_locks(
    patient: System, tmp_path: Path, name: str
) -> None:
    data = [f"{tmp_path / 'ran'} {number} {JOB_MS}".encode() for number in range(JOB_COUNT)]
    jobs = [patient.accept("counting", each, content_type="text/plain") for each in data]
    until(lambda: has_received(patient, jobs), 20, "the worker holds all messages")
    patient.kill_and_wait(name)
    answers = [patient.final(job_id, seconds=60) for job_id in jobs]
    assert {job["status"] for job in answers} == {"succeeded"}
    patient.wait_until_empty()
