"""Test child jobs on a system with one worker, which serves the parent and the other model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.crops_model import dump
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CATALOGUE = """
[crops]
description = "Runs another model on its parts."
implementation = "tests.e2e.crops_model"
media_types = ["application/json"]
max_batch_size = 2
memory_bytes = 3_000_000
reports_progress = true
lock_seconds = 5

[part]
description = "Is run by another model."
implementation = "tests.e2e.part_model"
media_types = ["application/json"]
max_batch_size = 2
memory_bytes = 3_000_000
lock_seconds = 5
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Run a system whose worker has memory for one of the two models only."""
    folder = tmp_path_factory.mktemp("children")
    environment = {
        "ACCEPT_WHEN_SATURATED": "true",
        "WORKER_DEVICE_MEMORY": "4MiB",
        "WORKER_MEMORY_FOLDER": str(folder / "memory"),
        "WORKER_TURN_SECONDS": "0.5",
    }
    with running(folder / "data", CATALOGUE, environment=environment) as started:
        yield started


def accept(system: System, log: Path, *calls: list[dict[str, Any]]) -> str:
    return system.accept("crops", dump(log, *calls), "application/json")


def runs_of(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_results_reach_the_parent(system: System, tmp_path: Path) -> None:
    names = [f"part-{number}" for number in range(6)]
    job_id = accept(system, tmp_path / "log", [{"name": name} for name in names])
    job = system.final(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job
    assert [each["name"] for each in job["result"]] == names
    timeline = system.http.get(f"/v1/jobs/{job_id}/timeline").json()
    assert {each["status"] for each in timeline["children"]} == {"succeeded"}
    assert len(timeline["children"]) == len(names)


def test_cancelled_parent_cancels_its_children(system: System, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    tasks = [{"name": name, "wait_for": str(gate)} for name in ("first", "second", "third")]
    job_id = accept(system, log, tasks)
    until(lambda: set(runs_of(log)) - {"crops"}, 30, "a child job runs")
    assert system.http.delete(f"/v1/jobs/{job_id}").status_code in {200, 202}
    assert system.final(job_id)["status"] == "cancelled"
    children = system.http.get(f"/v1/jobs/{job_id}/timeline").json()["children"]
    assert {system.final(each["id"])["status"] for each in children} == {"cancelled"}
    gate.touch()


def test_killed_parent_finds_its_children(system: System, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    job_id = accept(system, log, [{"name": "quick"}], [{"name": "slow", "wait_for": str(gate)}])
    until(lambda: "slow" in runs_of(log), 30, "the slow child job runs")
    system.kill("worker")
    gate.touch()
    job = system.final(job_id)
    assert job["status"] == "succeeded", job
    assert runs_of(log).count("quick") == 1
    assert runs_of(log).count("crops") > 1
