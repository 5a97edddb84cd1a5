"""Test queued jobs: their positions, low priority, cancellation, and a queue that is too long."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.catalogues import COUNTING
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]


def accept(system: System, text: str, priority: str = "normal") -> str:
    return system.accept("counting", text.encode(), "text/plain", f"?priority={priority}")


def test_low_priority_runs_last_cancelled_not_at_all(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "ran"
    with running(data, COUNTING, ("worker",)) as system:
        low = [accept(system, f"{file} low-{number}", "low") for number in range(5)]
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda number: accept(system, f"{file} job-{number}"), range(200)))
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
        hung_up = _hang_up(system, f"{file} hung-up")
        port = system.port
    with running(data, COUNTING, port=port) as system:
        assert {system.final(job_id)["status"] for job_id in [*kept, hung_up, *low]} == {
            "succeeded"
        }
        assert {system.job(job_id)["status"] for job_id in cancelled} == {"cancelled"}
        until(
            lambda: system.http.get("/v1/models/counting").json()["queue_length"] == 0,
            30,
            "the queue is empty",
        )
        wanted = ["hung-up", *(f"job-{number}" for number in range(150, 200))]
        ran = file.read_text("utf-8").split()
        assert sorted(ran[:-5]) == sorted(wanted)
        # The low-priority jobs were submitted first but run last. Their order may change, because
        # the worker checks all of them for cancellation at the same time.
        assert sorted(ran[-5:]) == [f"low-{number}" for number in range(5)]
        _check_saturation(system, file)


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


def _check_saturation(system: System, file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: accept(system, f"{file} late 300"), range(40)))
    until(lambda: _eta_seconds(system, ids[-1]) > 2, 10, "the last job shows an estimated wait")
    answer = until(lambda: _refused(system, file), 5, "a job with a short deadline is refused")
    problem = answer.json()
    assert problem["code"] == "saturated"
    assert int(answer.headers["retry-after"]) >= 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda job_id: system.http.delete(f"/v1/jobs/{job_id}"), ids))


def _eta_seconds(system: System, job_id: str) -> float:
    return system.job(job_id)["queue"]["eta_seconds"] or 0.0


def _refused(system: System, file: Path) -> httpx.Response | None:
    data, query = f"{file} late".encode(), "?deadline_seconds=1"
    answer = system.submit("counting", data, "text/plain", query, prefer="respond-async")
    return answer if answer.status_code == 503 else None
