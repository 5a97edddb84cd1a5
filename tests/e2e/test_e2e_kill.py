"""Kill each component, and check that every accepted job gets exactly one final status."""

import asyncio
import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from loosely import AsyncClient, Client, Job, Retry
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

JOB_COUNT = 50
ENVIRONMENT = {"WORKER_MODELS": "noop"}
#: Long enough for a whole system to stop and start on a busy machine.
PATIENT = Retry(longest_seconds=1, total_seconds=240)


def payload(number: int) -> bytes:
    """Return the input of job `number`. Every fifth input is so large that it is put in a blob."""
    size_bytes = 80_000 if number % 5 == 0 else 200
    return (f"job {number} ".encode() * (size_bytes // 6 + 1))[:size_bytes]


def accept_all(system: System) -> dict[str, bytes]:
    return {system.accept("noop", payload(number)): payload(number) for number in range(JOB_COUNT)}


def accept_across_a_kill(system: System, name: str) -> dict[str, bytes]:
    jobs: dict[str, bytes] = {}
    with ThreadPoolExecutor(max_workers=4) as callers:
        accepted = [callers.submit(system.accept_at_last, "noop", payload(n)) for n in range(25)]
        jobs.update(zip((job.result() for job in accepted), map(payload, range(25)), strict=True))
        late = range(25, JOB_COUNT)
        accepted = [callers.submit(system.accept_at_last, "noop", payload(n)) for n in late]
        system.kill_and_wait(name)
        jobs.update(zip((job.result() for job in accepted), map(payload, late), strict=True))
    assert len(jobs) == JOB_COUNT
    return jobs


def check_each_answered_once(system: System, jobs: dict[str, bytes]) -> None:
    answers = {job_id: system.final(job_id, seconds=120) for job_id in jobs}
    for job_id, data in jobs.items():
        assert answers[job_id]["status"] == "succeeded", answers[job_id]
        assert answers[job_id]["result"]["sha256"] == hashlib.sha256(data).hexdigest()
    # A second reply would change the times of a final job.
    assert {job_id: system.job(job_id) for job_id in jobs} == answers
    system.wait_until_empty()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("kill") / "data", environment=ENVIRONMENT) as started:
        yield started


@pytest.mark.parametrize("name", ["worker", "worker parent", "functions", "servicebus", "blobs"])
def test_jobs_succeed_after_a_kill_of_one_component(fragile: System, name: str) -> None:
    jobs = accept_across_a_kill(fragile, name)
    check_each_answered_once(fragile, jobs)


@pytest.mark.thorough
def test_jobs_succeed_after_kills_of_an_isolated_app(tmp_path: Path) -> None:
    data, options = tmp_path / "data", ("--isolated",)
    with running(data, environment=ENVIRONMENT, options=options) as system:
        for name in ("app", "functions"):
            check_each_answered_once(system, accept_across_a_kill(system, name))


@pytest.mark.thorough
def test_jobs_succeed_after_kills_of_three_components(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data, without=("worker",)) as first:
        jobs = accept_all(first)
        for name in ("functions", "servicebus", "blobs"):
            first.kill(name)
    with running(data, port=first.port, environment=ENVIRONMENT) as second:
        check_each_answered_once(second, jobs)


def run_with_threads(url: str) -> Job:
    with Client(url, retry=PATIENT) as client:
        return client.run(b"thread", "noop", media_type="text/plain", deadline_seconds=300)


def run_with_a_loop(url: str) -> Job:
    async def go() -> Job:
        async with AsyncClient(url, retry=PATIENT) as client:
            return await client.run(b"loop", "noop", media_type="text/plain", deadline_seconds=300)

    return asyncio.run(go())


@pytest.mark.thorough
def test_clients_survive_a_kill_of_the_gateway(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ThreadPoolExecutor(2) as pool:
        with running(data, without=("worker",), options=("--isolated",)) as first:
            waiting = [pool.submit(one, first.url) for one in (run_with_threads, run_with_a_loop)]
            jobs = until(lambda: listed(first, 2), 30, "both jobs are accepted")
            first.kill_and_wait("functions")
            assert still_waiting(waiting)
            first.kill("app")
            assert still_waiting(waiting)
        with running(data, port=first.port, environment=ENVIRONMENT) as second:
            ended = [one.result(timeout=120) for one in waiting]
            assert len(listed(second, 2) or []) == 2, "a repeated submit made a second job"
    assert {job.id for job in ended} == set(jobs)
    assert [job.status for job in ended] == ["succeeded", "succeeded"]


def still_waiting(waiting: list[Future[Job]]) -> bool:
    return not any(one.done() for one in waiting)


def listed(system: System, count: int) -> list[str] | None:
    with Client(system.url) as client:
        found = [job.id for job in client.jobs(model="noop")]
    return found if len(found) >= count else None
