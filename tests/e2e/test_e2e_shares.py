"""Two tenants and one model: a flood of one waits in the room, and jobs of the other pass."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.keys import make_key
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

FLOOD = 120
MODEL_MS = 40
SOON_SECONDS = 5.0
"""How soon a held job ends that is cancelled or whose deadline passes, on a busy machine."""

KEYS = {name: make_key(name, name) for name in ("acme", "bolt")}

CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_batch_size = 2
lock_seconds = 30
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {
        "API_KEYS": json.dumps([entry for _, entry in KEYS.values()]),
        "ACCEPT_WHEN_SATURATED": "true",  # a job is to expire while it is held
    }
    with running(
        tmp_path_factory.mktemp("shares") / "data", CATALOGUE, environment=environment
    ) as started:
        yield started


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[tenant][0]}"}


def accept(system: System, tenant: str, text: str, query: str = "") -> str:
    return system.accept("counting", text.encode(), "text/plain", query, **key(tenant))


def show(system: System, tenant: str, job_id: str) -> dict[str, Any]:
    answer = system.http.get(f"/v1/jobs/{job_id}", headers=key(tenant))
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def final(system: System, tenant: str, job_id: str, seconds: float = 90) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        try:
            job = show(system, tenant, job_id)
        except (httpx.TransportError, AssertionError):
            return None  # the gateway was killed
        return job if job["finished_at"] else None

    return dict(until(ended, seconds, f"job {job_id} is final"))


def flood(system: System, ran: Path) -> list[str]:
    """Submit the jobs of a flood, of which each logs its number in the file `ran`."""
    jobs = [accept(system, "acme", f"{ran} {number} {MODEL_MS}") for number in range(FLOOD)]
    assert show(system, "acme", jobs[-1])["queue"]["phase"] == "share"
    return jobs


def test_job_passes_the_flood_of_another_tenant(system: System, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with system.paused("worker"):
        jobs = flood(system, ran)
        other = accept(system, "bolt", f"{ran} other {MODEL_MS}")
    assert final(system, "bolt", other)["status"] == "succeeded"
    assert {final(system, "acme", job_id)["status"] for job_id in jobs} == {"succeeded"}
    order = ran.read_text("utf-8").split()
    assert order.index("other") < FLOOD / 2
    order.remove("other")
    assert sorted(order, key=int) == [str(number) for number in range(FLOOD)]


def test_held_job_ends_soon_after_its_cancellation(system: System, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with system.paused("worker"):
        *jobs, last = flood(system, ran)
        begun = time.monotonic()
        answer = system.http.delete(f"/v1/jobs/{last}", headers=key("acme"))
        assert answer.status_code in {200, 202}, answer.text
        assert final(system, "acme", last)["status"] == "cancelled"
        assert time.monotonic() - begun < SOON_SECONDS
    for job_id in jobs:
        assert final(system, "acme", job_id)["status"] == "succeeded"
    assert str(FLOOD - 1) not in ran.read_text("utf-8").split()


def test_held_job_ends_soon_after_its_deadline(system: System, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with system.paused("worker"):
        jobs = flood(system, ran)
        ended = final(
            system, "acme", accept(system, "acme", f"{ran} late {MODEL_MS}", "?deadline_seconds=1")
        )
    assert ended["status"] == "expired"
    late = datetime.fromisoformat(ended["finished_at"]) - datetime.fromisoformat(ended["deadline"])
    assert late.total_seconds() < SOON_SECONDS
    assert final(system, "acme", jobs[-1])["status"] == "succeeded"
    assert "late" not in ran.read_text("utf-8").split()


def test_held_jobs_survive_kills_of_their_gateway(system: System, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    jobs = flood(system, ran)
    for _ in range(3):
        system.kill_and_wait("functions")
        time.sleep(0.5)
    assert {final(system, "acme", job_id)["status"] for job_id in jobs} == {"succeeded"}
    other = final(system, "bolt", accept(system, "bolt", f"{ran} other {MODEL_MS}"))
    assert other["status"] == "succeeded"
