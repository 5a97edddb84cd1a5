"""Test that broken models and jobs that crash the worker do not stop the other models."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.catalogues import format_catalogue
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

BROKEN = {
    "dies-at-import": ("tests.e2e.dies_at_import", ""),
    "segfaults": ("tests.e2e.dies_at_load", 'options = {how = "segfault"}'),
    "raises": ("tests.e2e.dies_at_load", 'options = {how = "badly"}'),
}
KILLERS = set(BROKEN) - {"raises"}


def health(system: System, page: str) -> httpx.Response:
    port = system.part("worker").ports["worker health"]
    return httpx.get(f"http://127.0.0.1:{port}{page}")


def problems(system: System) -> dict[str, str]:
    try:
        models: dict[str, dict[str, Any]] = health(system, "/ready").json()["models"]
    except httpx.TransportError:
        return {}
    return {name: model["problem"]["code"] for name, model in models.items() if model["set_aside"]}


def pids(system: System) -> list[int]:
    return [system.part(name).pid for name in ("blobs", "servicebus", "functions")]


def is_printed(system: System, text: str) -> bool:
    return text in system.output()


def serve_healthy_model(system: System) -> float:
    started_at = time.monotonic()
    job = system.submit("healthy", b"hello", "text/plain").json()
    assert job["status"] == "succeeded", job
    return time.monotonic() - started_at


def test_other_models_are_served_and_faults_reported(tmp_path: Path) -> None:
    models = {"healthy": ("tests.e2e.crasher", ""), **BROKEN}
    catalogue = format_catalogue(models)
    expected = dict.fromkeys(KILLERS, "model-kills-worker") | {"raises": "model-failed"}
    with running(tmp_path / "data", catalogue) as system:
        before = pids(system)
        until(lambda: problems(system) == expected, 60, "the broken models are set aside")
        waits = [serve_healthy_model(system) for _ in range(10)]
        # A restart of the worker or a lost lock takes longer.
        assert max(waits) < 5.0, waits

        ready = health(system, "/ready")
        assert ready.status_code == 503
        assert all(name in ready.json()["reason"] for name in BROKEN)
        assert health(system, "/started").status_code == 200
        metrics = health(system, "/metrics").text
        for name in BROKEN:
            assert f'loosely_worker_model_set_aside{{model="{name}"}} 1.0' in metrics
            line = f"the model {name} is set aside"
            until(partial(is_printed, system, line), 10, f"`up` prints: {line}")
        assert 'loosely_worker_model_set_aside{model="healthy"} 0.0' in metrics
        assert pids(system) == before


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(0, marks=pytest.mark.thorough),
        2,
        pytest.param(98, marks=pytest.mark.thorough),
    ],
)
def test_job_that_exits_is_dead_lettered_alone(tmp_path: Path, code: int) -> None:
    models = dict.fromkeys(("crasher", "healthy"), ("tests.e2e.crasher", ""))
    catalogue = format_catalogue(models)
    with running(tmp_path / "data", catalogue) as system:
        before = [*pids(system), system.part("worker").pid]
        calm = max(serve_healthy_model(system) for _ in range(5))
        log = system.data / "logs" / "worker.log"
        poison = system.accept("crasher", b"exit %d" % code, content_type="text/plain")
        # Until its first death, nobody knows the job. A message that arrives in the milliseconds in
        # which this process ends waits until its lock expires.
        died = f"exited with code {code} without a shutdown"
        until(lambda: died in log.read_text("utf-8"), 30, "the job has killed a process")
        waits = []
        while not (job := system.job(poison))["finished_at"]:
            waits.append(serve_healthy_model(system))
        assert job["error"]["code"] == "dead-lettered"
        assert log.read_text("utf-8").count(died) == 3
        waits += [serve_healthy_model(system) for _ in range(5)]
        # The process starts again at once; a job that lost its lock would wait for 10 s.
        assert max(waits) < calm + 6.0
        # The parent process has replaced its child, so `up` had nothing to restart.
        assert [*pids(system), system.part("worker").pid] == before
        assert system.output().count("died") == 0
