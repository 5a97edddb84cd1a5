"""Test a model that runs many jobs at once."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from azure.storage.blob import BlobServiceClient

from contract.names import PAYLOAD_CONTAINER
from contract.streams import encode_stop, stop_log
from tests import connections
from tests.e2e.system import System, running, until
from worker.clock import utc_now

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = """
[many]
description = "Runs many jobs at once."
implementation = "tests.e2e.concurrent_model"
media_types = ["text/plain"]
deadline_seconds = 120
lock_seconds = 5
reports_progress = true
max_concurrent_jobs = 3
"""


class ConcurrentJob:
    """A job of the model `many`, which runs until the test ends it."""

    def __init__(self, system: System, folder: Path) -> None:
        folder.mkdir()
        self.system, self.folder = system, folder
        body = json.dumps({"folder": str(folder)})
        self.id = system.accept("many", body.encode(), "text/plain")

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def end(self) -> None:
        (self.folder / "end").touch()

    def wait_for(self, name: str) -> None:
        until(lambda: self.has(name), 15, f"the job has the file {name}")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(
        tmp_path_factory.mktemp("concurrent") / "data",
        CATALOGUE,
        environment={"ACCEPT_WHEN_SATURATED": "true"},
    ) as started:
        yield started


def test_jobs_join_and_leave(system: System, tmp_path: Path) -> None:
    jobs = [ConcurrentJob(system, tmp_path / str(number)) for number in range(4)]
    until(lambda: sum(job.has("running") for job in jobs) == 3, 15, "three jobs run")
    (waiting,) = [job for job in jobs if not job.has("running")]
    first = next(job for job in jobs if job.has("running"))
    first.end()
    assert system.final(first.id)["result"] == {"most": 3}
    waiting.wait_for("running")
    for job in jobs:
        job.end()
    assert {system.final(job.id)["status"] for job in jobs} == {"succeeded"}


def test_stop_order_frees_the_place(system: System, tmp_path: Path) -> None:
    job = ConcurrentJob(system, tmp_path / "job")
    job.wait_for("running")
    ordered_at = time.time()
    order_stop(system, job.id)
    job.wait_for("cancelled")
    assert float((job.folder / "cancelled").read_text()) - ordered_at < 0.5


def test_cancelled_job_frees_its_place(system: System, tmp_path: Path) -> None:
    jobs = [ConcurrentJob(system, tmp_path / str(number)) for number in range(4)]
    until(lambda: sum(job.has("running") for job in jobs) == 3, 15, "three jobs run")
    (waiting,) = [job for job in jobs if not job.has("running")]
    cancelled = next(job for job in jobs if job.has("running"))
    until(lambda: system.job(cancelled.id)["status"] == "running", 15, "its caller sees it run")
    ordered_at = time.time()
    system.http.delete(f"/v1/jobs/{cancelled.id}")
    waiting.wait_for("running")
    assert (waiting.folder / "running").stat().st_mtime - ordered_at < 1.0
    assert float((cancelled.folder / "cancelled").read_text()) - ordered_at < 0.5
    assert system.final(cancelled.id)["status"] == "cancelled"
    for job in jobs:
        job.end()
    ended = {system.final(job.id)["status"] for job in jobs if job is not cancelled}
    assert ended == {"succeeded"}


def test_jobs_of_a_killed_worker_run_again(system: System, tmp_path: Path) -> None:
    jobs = [ConcurrentJob(system, tmp_path / str(number)) for number in range(2)]
    for job in jobs:
        job.wait_for("running")
    system.kill("worker")
    for job in jobs:
        (job.folder / "running").unlink()
    until(lambda: all(job.has("running") for job in jobs), 30, "the jobs run again, together")
    for job in jobs:
        job.end()
    ended = [system.final(job.id) for job in jobs]
    assert [(job["status"], job["attempt"]) for job in ended] == [("succeeded", 2)] * 2


def test_shutdown_ends_jobs_and_closes_the_model(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    catalogue = CATALOGUE + f'options = {{closed = "{closed}"}}\n'
    with running(tmp_path / "data", catalogue) as system:
        job = ConcurrentJob(system, tmp_path / "job")
        job.wait_for("running")
        psutil.Process(system.pid("worker")).terminate()
        assert not closed.exists()
        job.end()
        assert system.final(job.id)["status"] == "succeeded"
        until(closed.exists, 15, "the model is closed")


def order_stop(system: System, job_id: str) -> None:
    """Append a line to the log of stop orders, as the gateway does."""
    storage = connections.blob_storage(system.part("blobs").ports["blobs"])
    account = BlobServiceClient.from_connection_string(storage)
    blob = account.get_blob_client(PAYLOAD_CONTAINER, stop_log(utc_now()))
    if not blob.exists():
        blob.create_append_blob()
    blob.append_block(encode_stop(job_id) + b"\n")
