"""Test that the steps in the timeline of each job add up to the total time of the job."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.catalogue import DEFAULT_PATH
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(300)]

COUNTING = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_batch_size = 4
lock_seconds = 5
max_delivery_count = 5
"""
PICTURE_COUNT, BURST_COUNT, WAITED_COUNT = 16, 10, 9


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {"WORKER_MODELS": "noop,classifier,counting"}
    with running(
        tmp_path_factory.mktemp("timeline") / "data",
        DEFAULT_PATH.read_text("utf-8") + COUNTING,
        environment=environment,
    ) as started:
        yield started


def timeline(system: System, job_id: str) -> dict[str, Any]:
    answer = system.http.get(f"/v1/jobs/{job_id}/timeline")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def check_sum(shown: dict[str, Any], job: dict[str, Any]) -> None:
    parts_ms = [step["duration_ms"] for step in shown["steps"]]
    whole_ms = job["timing"]["total_ms"]
    gap = abs(sum(parts_ms) - whole_ms)
    assert min(parts_ms) >= 0, shown
    assert min(step["share"] for step in shown["steps"]) >= 0
    assert gap <= max(5.0, 0.02 * whole_ms), shown
    lengths = [row["duration_ms"] for row in shown["deliveries"]]
    assert min((length for length in lengths if length is not None), default=0) >= 0


def answer_of(shown: dict[str, Any]) -> dict[str, Any]:
    (found,) = [row for row in shown["deliveries"] if row["state"] == "answered"]
    return dict(found)


def submit_upload(system: System) -> str:
    asked = {"model": "noop", "media_type": "application/octet-stream"}
    slot = system.http.post("/v1/uploads", json=asked).json()
    stored = httpx.put(slot["url"], content=bytes(3_000_000), headers=slot["headers"])
    assert stored.status_code == 201, stored.text
    answer = system.http.post("/v1/models/noop/jobs", json={"input": {"upload": slot["upload"]}})
    return str(answer.json()["id"])


def submit_redelivered(system: System, folder: Path) -> str:
    ran = folder / "ran"
    job_id = system.accept("counting", f"{ran} 1 3000".encode(), content_type="text/plain")
    until(ran.exists, 30, "the worker runs the job")
    system.kill("worker")
    states = until(
        lambda: [row["state"] for row in timeline(system, job_id)["deliveries"]],
        60,
        "the timeline shows the second delivery",
    )
    assert states == ["lost", "running"]
    return job_id


def test_steps_add_up_to_the_jobs_time(mixed: System, pictures: Path, tmp_path: Path) -> None:
    picture = (pictures / "chelsea.jpg").read_bytes()
    begun = time.monotonic()
    first = mixed.submit("noop", b"waited for").json()["id"]
    seen_ms = (time.monotonic() - begun) * 1000
    with mixed.paused("worker"):
        cancelled = mixed.accept("noop", b"cancelled")
        mixed.http.delete(f"/v1/jobs/{cancelled}")
        late = mixed.http.post(
            "/v1/models/noop/jobs?deadline_seconds=1",
            content=b"late",
            headers={"content-type": "text/plain"},
        )
        expired = late.json()["job"]["id"]
    with ThreadPoolExecutor(8) as callers:
        pictures_ids = [
            callers.submit(mixed.accept, "classifier", picture, content_type="image/jpeg")
            for _ in range(PICTURE_COUNT)
        ]
        burst = [callers.submit(mixed.accept, "noop", b"x") for _ in range(BURST_COUNT)]
        waited = [callers.submit(mixed.submit, "noop", b"x") for _ in range(WAITED_COUNT)]
    redelivered = submit_redelivered(mixed, tmp_path)
    uploaded = submit_upload(mixed)
    ids = [first, cancelled, expired, redelivered, uploaded]
    ids += [job.result() for job in (*pictures_ids, *burst)]
    ids += [answer.result().json()["id"] for answer in waited]
    assert len(set(ids)) == 40
    jobs = {job_id: mixed.final(job_id) for job_id in ids}
    shown = {job_id: timeline(mixed, job_id) for job_id in ids}
    for job_id in ids:
        check_sum(shown[job_id], jobs[job_id])

    statuses = [jobs[job_id]["status"] for job_id in ids]
    assert statuses[:3] == ["succeeded", "cancelled", "expired"]
    assert set(statuses[3:]) == {"succeeded"}
    assert shown[first]["total_ms"] <= seen_ms + 2
    # The orchestration starts beside these steps, and for a short job even after the last one.
    usual = [step["name"] for step in shown[uploaded]["steps"] if not step["is_beside"]]
    assert usual == [
        *("accepted", "enqueued", "received", "fetched", "decoded", "batched"),
        *("run", "stored", "replied", "final"),
    ]
    rows = shown[redelivered]["deliveries"]
    assert [(row["number"], row["state"]) for row in rows] == [(1, "lost"), (2, "answered")]
    assert rows[1]["worker"] != answer_of(shown[first])["worker"]
    sizes = [answer_of(shown[job.result()])["batch_size"] for job in pictures_ids]
    assert max(sizes) > 1
    for job_id in ids[3:]:
        assert answer_of(shown[job_id])["device"] == "cpu"
        assert shown[job_id]["clock_skew"] == []
        assert shown[job_id]["trace_id"] == jobs[job_id]["trace_id"]
