"""Test event streams through the local Functions host, with the app inside it and as a process."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SUBMIT = "/v1/models/noop/jobs"
HEADERS = {"content-type": "text/plain", "accept": "text/event-stream"}


@pytest.fixture(scope="module", params=[(), ("--isolated",)], ids=["inside", "isolated"])
def idle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Yield a system without a worker, which allows one open stream."""
    data = tmp_path_factory.mktemp("loosely") / "data"
    with running(
        data, without=("worker",), options=request.param, environment={"MAX_STREAMS": "1"}
    ) as started:
        yield started


def read_jobs(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the data of the events in an open stream."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def is_free(system: System) -> bool:
    """Return whether another stream may be opened: then the answer is about the job."""
    return system.http.get("/v1/jobs/none/events").status_code == 404


def test_hang_up_frees_the_place(idle: System) -> None:
    until(lambda: is_free(idle), 5, "a stream may be opened")
    with idle.http.stream("POST", SUBMIT, content=b"x", headers=HEADERS) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        jobs = read_jobs(answer)  # the connection is closed when this is collected
        job = next(jobs)
        refused = idle.http.get(f"/v1/jobs/{job['id']}/events")
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-streams")
    until(lambda: is_free(idle), 5, "the place of the reader is free")


def test_cancelled_job_ends_its_stream(idle: System) -> None:
    until(lambda: is_free(idle), 5, "a stream may be opened")
    with idle.http.stream("POST", SUBMIT, content=b"x", headers=HEADERS) as answer:
        jobs = read_jobs(answer)
        job = next(jobs)
        assert idle.http.delete(f"/v1/jobs/{job['id']}").status_code == 202
        assert [each["status"] for each in jobs] == ["cancelled"]
