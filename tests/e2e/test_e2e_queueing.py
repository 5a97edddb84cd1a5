"""Test queued jobs: their positions, low priority, cancellation, and a queue that is too long."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting"
media_types = ["text/plain"]
deadline_seconds = 120
max_batch_size = 1
max_wait_ms = 0
"""


def ran(directory: Path) -> list[str]:
    file = directory / "ran.txt"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def accept(system: System, text: str, priority: str = "normal") -> str:
    return system.accept("counting", text.encode(), "text/plain", f"?priority={priority}")


def test_low_priority_runs_last_cancelled_not_at_all(tmp_path: Path) -> None:
    data, environment = tmp_path / "data", {"COUNTING_FILE": str(tmp_path / "ran.txt")}
    with running(data, CATALOGUE, ("worker",), environment=environment) as system:
        low = [accept(system, f"low {number}", "low") for number in range(5)]
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda number: accept(system, f"job {number}"), range(200)))
        # A job is counted only after its message is in the queue.
        system.wait_for_messages(205)
        until(
            lambda: system.http.get("/v1/models/counting").json()["queue_length"] == 205,
            20,
            "all jobs are counted",
        )
        _check_positions(system, ids)
        assert system.job(low[-1])["queue"]["position"] == 205
        cancelled, kept = ids[:150], ids[150:]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda job_id: system.http.delete(f"/v1/jobs/{job_id}"), cancelled))
        hung_up = _hang_up(system, "job hung up")
        port = system.port
    with running(data, CATALOGUE, port=port, environment=environment) as system:
        assert {system.final(job_id)["status"] for job_id in [*kept, hung_up, *low]} == {
            "succeeded"
        }
        assert {system.job(job_id)["status"] for job_id in cancelled} == {"cancelled"}
        until(
            lambda: system.http.get("/v1/models/counting").json()["queue_length"] == 0,
            30,
            "the queue is empty",
        )
        wanted = ["job hung up", *(f"job {number}" for number in range(150, 200))]
        assert sorted(ran(tmp_path)[:-5]) == sorted(wanted)
        # The low-priority jobs were submitted first but run last. Their order may change, because
        # the worker checks all of them for cancellation at the same time.
        assert sorted(ran(tmp_path)[-5:]) == [f"low {number}" for number in range(5)]
        _check_saturation(system)


def _check_positions(system: System, ids: list[str]) -> None:
    queues = [system.job(job_id)["queue"] for job_id in (ids[0], ids[100], ids[199])]
    positions = [queue["position"] for queue in queues]
    # Eight requests were sent at a time, so the positions are approximate.
    assert positions[0] <= 16, positions
    assert 80 <= positions[1] <= 120, positions
    assert 180 <= positions[2] <= 200, positions
    until(
        lambda: system.job(ids[0])["queue"]["phase"] == "cold_starting",
        10,
        "the job shows that no worker runs",
    )
    assert system.job(ids[0])["queue"]["eta_seconds"] is None


def _hang_up(system: System, text: str) -> str:
    before = {job["id"] for job in system.http.get("/v1/jobs", params={"limit": 5}).json()["jobs"]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{system.url}/v1/models/counting/jobs",
            content=text,
            headers={"content-type": "text/plain", "prefer": "wait=30"},
            timeout=httpx.Timeout(1.0),
        )
    jobs = system.http.get("/v1/jobs", params={"limit": 5}).json()["jobs"]
    (job_id,) = {job["id"] for job in jobs if job["status"] == "queued"} - before
    return str(job_id)


def _check_saturation(system: System) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: accept(system, "sleep 300"), range(40)))
    until(lambda: _eta_seconds(system, ids[-1]) > 2, 10, "the last job shows an estimated wait")
    options = {"deadline_seconds": 1}
    answer = until(lambda: _refused(system, options), 5, "a job with a short deadline is refused")
    problem = answer.json()
    assert problem["code"] == "saturated"
    assert int(answer.headers["retry-after"]) >= 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job_id: system.http.delete(f"/v1/jobs/{job_id}"), ids))


def _eta_seconds(system: System, job_id: str) -> float:
    return system.job(job_id)["queue"]["eta_seconds"] or 0.0


def _refused(system: System, options: dict[str, int]) -> httpx.Response | None:
    answer = system.http.post(
        "/v1/models/counting/jobs",
        params=options,
        content=b"no time",
        headers={"content-type": "text/plain", "prefer": "respond-async"},
    )
    return answer if answer.status_code == 503 else None
