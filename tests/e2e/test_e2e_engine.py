"""Test engine servers under a running system: they die, and jobs that harm them do not spread."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System, running, until
from tests.engine_server import words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

COMMAND = (
    f"{shlex.quote(sys.executable)} {Path('tests/engine_server.py').resolve()} --port {{port}}"
)

ENTRY = """
[{name}]
description = "An engine."
implementation = "worker.models.engine"
media_types = ["text/plain"]
deadline_seconds = 120
lock_seconds = 5
reports_progress = true
max_concurrent_jobs = 8
max_run_seconds = {run_seconds}
options = {{command = '{command}{fault}', start_seconds = {start_seconds}}}
"""


def entry(name: str, fault: str = "", run_seconds: int = 60, start_seconds: int = 60) -> str:
    limits = {"run_seconds": run_seconds, "start_seconds": start_seconds}
    return ENTRY.format(name=name, command=COMMAND, fault=fault, **limits)


CATALOGUE = (
    entry("chat")
    + entry("hanging", run_seconds=2)
    + entry("dead", " --fault dies-at-start")
    + entry("mute", " --fault never-healthy", start_seconds=5)
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("engine")
    with running(
        folder / "data", CATALOGUE, environment={"WORKER_BROKEN_MODEL_SECONDS": "3"}
    ) as started:
        yield started


def engines(system: System) -> list[psutil.Process]:
    worker = psutil.Process(system.pid("worker"))
    found = []
    for each in worker.children(recursive=True):
        try:
            if "tests/engine_server.py" in " ".join(each.cmdline()[1:2]):
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def test_a_job_is_answered_by_the_engine(system: System) -> None:
    answer = system.submit("chat", b"tokens=3 hello", "text/plain").json()
    assert answer["status"] == "succeeded", answer
    assert answer["result"] == "".join(words("tokens=3 hello", 3))


def test_jobs_of_a_killed_engine_run_again(system: System) -> None:
    jobs = [system.accept("chat", b"tokens=40 rate=20 job %d" % n, "text/plain") for n in range(4)]
    until(lambda: all(system.job(each)["started_at"] for each in jobs), 30, "all jobs run")
    for each in engines(system):
        each.kill()
    for number, job in enumerate(jobs):
        final = system.final(job)
        assert final["status"] == "succeeded", final
        text = "".join(words(f"tokens=40 rate=20 job {number}", 40))
        assert final["result"] == text


def test_a_job_that_kills_the_engine_harms_no_other(system: System) -> None:
    worker = system.pid("worker")
    killer = system.accept("chat", b"fault=dies-in-stream", "text/plain")
    others = [system.accept("chat", b"tokens=20 rate=20 %d" % n, "text/plain") for n in range(3)]
    assert [system.final(each)["status"] for each in others] == ["succeeded"] * 3
    final = system.final(killer, 120)
    assert final["status"] == "failed"
    assert final["error"]["code"] == "dead-lettered", final
    assert system.pid("worker") == worker


def test_a_hanging_engine_ends_its_job(system: System) -> None:
    worker = system.pid("worker")
    final = system.final(system.accept("hanging", b"fault=hangs", "text/plain"))
    assert final["error"]["code"] == "run-too-long", final
    assert system.submit("hanging", b"next", "text/plain").json()["status"] == "succeeded"
    assert system.pid("worker") == worker


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("dead", "the engine finds no GPU"),
        ("mute", "GET /health of the engine does not return 200"),
    ],
)
def test_an_engine_that_never_starts_ends_its_jobs(system: System, model: str, text: str) -> None:
    final = system.final(system.accept(model, b"hello", "text/plain"))
    assert final["error"]["code"] == "model-broken", final
    assert text in final["error"]["message"]


def test_a_killed_worker_leaves_no_engine(system: System) -> None:
    before = engines(system)
    assert before
    system.kill("worker")
    until(
        lambda: not any(each.is_running() and each.status() != "zombie" for each in before),
        10,
        "the engines of the killed worker have ended",
    )
    assert system.submit("chat", b"tokens=1 back", "text/plain").json()["status"] == "succeeded"
