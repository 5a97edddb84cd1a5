"""Test that 64 simultaneous requests with one Idempotency-Key make one job."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CALLERS = 64


@pytest.fixture
def http(fragile: System) -> Iterator[httpx.Client]:
    """Return an HTTP client that all callers share. A client for each caller would be slow."""
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=fragile.url, timeout=90, limits=limits) as client:
        yield client


def ask(http: httpx.Client, key: str, data: bytes, seconds: float) -> httpx.Response:
    end = time.monotonic() + seconds
    while True:
        try:
            answer = http.post(
                "/v1/models/noop/jobs",
                content=data,
                headers={
                    "content-type": "application/octet-stream",
                    "idempotency-key": f'"{key}"',
                    "prefer": "wait=60",
                },
            )
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, "no response below 500 in time"
        time.sleep(0.2)


def jobs_of(answers: list[httpx.Response]) -> list[dict[str, Any]]:
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers][:3]
    return [answer.json() for answer in answers]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("idempotency")
    with running(folder / "data", environment={"WORKER_MODELS": "noop"}) as started:
        yield started


@pytest.mark.parametrize("size_bytes", [100, 100_000])
def test_simultaneous_requests_get_the_same_job(http: httpx.Client, size_bytes: int) -> None:
    key, data = str(uuid.uuid4()), b"x" * size_bytes
    with ThreadPoolExecutor(CALLERS) as callers:
        answers = list(callers.map(lambda _: ask(http, key, data, 30), range(CALLERS)))
    jobs = jobs_of(answers)
    assert all(job == jobs[0] for job in jobs)
    assert jobs[0]["attempt"] == 1
    # Only the request that started the job gets a response without this header. If another request
    # took over the start, all responses may have the header.
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) <= 1
    other = ask(http, key, data + b"y", 30)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


def test_killed_host_creates_one_job_for_each_key(fragile: System, http: httpx.Client) -> None:
    old, new = str(uuid.uuid4()), str(uuid.uuid4())
    with ThreadPoolExecutor(2 * CALLERS) as callers:
        asked = {old: [callers.submit(ask, http, old, b"old", 60) for _ in range(CALLERS)]}
        time.sleep(0.15)
        asked[new] = [callers.submit(ask, http, new, b"new", 60) for _ in range(CALLERS)]
        time.sleep(0.05)
        fragile.kill_and_wait("functions")
        answers = {key: [each.result() for each in futures] for key, futures in asked.items()}
    for key in (old, new):
        jobs = jobs_of(answers[key])
        assert all(job == jobs[0] for job in jobs)
        assert jobs[0]["status"] == "succeeded"
        assert fragile.job(jobs[0]["id"]) == jobs[0]
    fragile.wait_until_empty()
