"""Test the client library and the documented examples with running local systems."""

import asyncio
import os
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from loosely import AsyncClient, Client, Job, Retry
from tests.e2e.system import ROOT, System, running, until

pytestmark = pytest.mark.e2e

GUIDE, README = (
    (ROOT / name).read_text("utf-8") for name in ("docs/reference/client.md", "README.md")
)
#: Long enough for a whole system to stop and start on a busy machine.
PATIENT = Retry(longest_seconds=1, total_seconds=240)


def examples(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


PROGRAMS = examples(GUIDE, "python") + [
    example for example in examples(README, "python") if "from loosely import" in example
]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_documented_programs_succeed(system: System, number: int) -> None:
    program = PROGRAMS[number].replace("http://127.0.0.1:7071", system.url)
    done = run([sys.executable, "-W", "error", "-c", program])
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(150)
def test_documented_commands_succeed(system: System) -> None:
    [commands] = examples(GUIDE, "sh")
    command = f'set -e; loosely() {{ "{sys.executable}" -m loosely "$@"; }}\n{commands}'
    done = run(["sh", "-c", command], LOOSELY_URL=system.url)
    assert done.returncode == 0, done.stderr
    assert "Egyptian cat" in done.stdout
    assert "image/jpeg" in done.stdout


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )


def run_with_threads(url: str) -> Job:
    with Client(url, retry=PATIENT) as client:
        return client.run(b"thread", "noop", media_type="text/plain", deadline_seconds=300)


def run_with_a_loop(url: str) -> Job:
    async def go() -> Job:
        async with AsyncClient(url, retry=PATIENT) as client:
            return await client.run(b"loop", "noop", media_type="text/plain", deadline_seconds=300)

    return asyncio.run(go())


@pytest.mark.timeout(240)
def test_run_survives_a_kill_of_the_gateway(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ThreadPoolExecutor(2) as pool:
        with running(data, without=("worker",), options=("--isolated",)) as first:
            waiting = [pool.submit(one, first.url) for one in (run_with_threads, run_with_a_loop)]
            jobs = until(lambda: listed(first, 2), 30, "both jobs are accepted")
            first.kill_and_wait("functions")
            assert still_waiting(waiting)
            first.kill("app")
            assert still_waiting(waiting)
        environment = {"WORKER_MODELS": "noop"}
        with running(data, port=first.port, environment=environment) as second:
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
