"""Test what the storm of tenants submits, and what it sees of a job."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.storm.jobs import BrokenPromises, KnownState
from lab.storm.tenants import TenantJob, TenantStorm

OPEN = KnownState(is_final=False, is_cancelled=False)


def resource(status: str = "queued", phase: str | None = None, **members: Any) -> dict[str, Any]:
    found = {"status": status, "finished_at": None, "deadline": "2026-12-02T09:00:00Z"}
    return {**found, "queue": {"phase": phase}, "result": None, "error": None, **members}


def planned(count: int = 80) -> list[TenantJob]:
    storm = TenantStorm(4, count, seed=1, cancel_share=0.1)
    return [job for job in storm.jobs if isinstance(job, TenantJob)]


def test_first_tenant_floods() -> None:
    counts = Counter(job.tenant for job in planned())
    assert counts == {"tenant-1": 50, "tenant-2": 10, "tenant-3": 10, "tenant-4": 10}


def test_each_tenant_has_its_own_key() -> None:
    keys = {job.headers["authorization"]: job.tenant for job in planned()}
    assert sorted(keys.values()) == ["tenant-1", "tenant-2", "tenant-3", "tenant-4"]


@pytest.mark.parametrize(("phase", "was_held"), [("share", True), ("queued", False)])
def test_held_job_is_noticed(phase: str, was_held: bool) -> None:
    job = planned()[0]
    job.see(resource(phase=phase), OPEN)
    job.see(resource(phase=None, status="running"), OPEN)
    assert job.was_held == was_held


@pytest.mark.parametrize(("deadline_seconds", "expected"), [(None, 1), (10, 0)])
def test_only_a_job_with_a_deadline_may_expire(deadline_seconds: int | None, expected: int) -> None:
    job = planned()[0]
    job.deadline_seconds = deadline_seconds
    job.accept("an id", "0.1")
    job.see(resource("expired", finished_at="2026-12-02T09:00:00Z"), OPEN)
    assert len(BrokenPromises.find([job]).expired) == expected


def test_deadline_is_in_the_request() -> None:
    job = planned()[0]
    job.deadline_seconds = 10
    path = job.submission(Path("ran"), 1).path
    assert path == "/v1/models/counting/jobs?deadline_seconds=10"
