"""Test the whole system while Redis is full, cannot write, is silent or killed: no job is lost.

The answers are those that docs/how-to/brokers.md promises.
"""

import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis

from contract.redis_queues import queue_key
from tests.e2e.catalogues import format_catalogue
from tests.e2e.outages import (
    assert_jobs_end_and_all_is_well,
    first_verdict,
    readiness,
    submit_both_ways,
)
from tests.e2e.system import System, broker_options, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CATALOGUE = (
    format_catalogue({"crasher": ("tests.e2e.crasher", "")})
    + """
[counting]
description = "For tests."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
max_batch_size = 4
max_wait_ms = 0
lock_seconds = 5
"""
)
FULL = "Redis stores no new messages: its memory is full (maxmemory)"
UNWRITABLE = (
    "Redis stores no new messages: it cannot write its append-only file, perhaps because the disk "
    "is full"
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp("redis") / "data"
    with running(data, CATALOGUE, options=broker_options("redis")) as started:
        yield started


@contextmanager
def connected(system: System) -> Iterator[redis.Redis]:
    password = (system.data / "broker-password.key").read_text().strip()
    port = system.part("redis").ports["redis"]
    with redis.Redis(port=port, password=password) as client:
        yield client


@contextmanager
def full_memory(system: System) -> Iterator[None]:
    """Let Redis refuse everything that needs memory, as `maxmemory` with `noeviction` does."""
    with connected(system) as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextmanager
def full_disk(system: System) -> Iterator[None]:
    """Let no file of Redis grow. With `appendfsync always`, Redis would end at once."""
    pid, any_size = system.pid("redis"), resource.RLIM_INFINITY
    with connected(system) as client:
        client.config_set("appendfsync", "everysec")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, any_size))
        try:
            until(lambda: is_refused(client), 20, "Redis refuses to write")
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (any_size, any_size))
            until(lambda: not is_refused(client), 20, "Redis writes again")
            client.config_set("appendfsync", "always")


def is_refused(client: redis.Redis) -> bool:
    try:
        client.set("written-by-a-test", "")
    except redis.ResponseError as error:
        return str(error).startswith("MISCONF")
    return False


@pytest.mark.parametrize(
    ("refusing", "refusal"), [(full_memory, FULL), (full_disk, UNWRITABLE)], ids=["memory", "disk"]
)
def test_jobs_wait_while_redis_stores_nothing(
    system: System,
    refusing: Callable[[System], AbstractContextManager[None]],
    refusal: str,
) -> None:
    with refusing(system):
        answers = submit_both_ways(system)
        assert first_verdict(system) == {
            "severity": "critical",
            "model": None,
            "code": "service-unavailable",
            "text": f"{refusal}.",
            "advice": "Jobs are accepted and sent when it stores messages again. See the broker's "
            "log.",
        }
        until(lambda: readiness(system)[0] == 503, 10, "the gateway is not ready")
        assert readiness(system)[1] == {"durable": "ok", "queue": "no answer", "blobs": "ok"}
    assert_jobs_end_and_all_is_well(system, answers)
    log = (system.data / "logs" / "functions.log").read_text()
    assert (
        sum(" ERROR " in line and line.endswith(f"] {refusal}") for line in log.splitlines()) == 1
    )
    assert "Redis stores messages again" in log


def test_jobs_wait_while_redis_is_silent(system: System) -> None:
    with system.paused("redis"):
        answers = submit_both_ways(system)
        status, checks = readiness(system)
        assert (status, checks["queue"]) == (503, "no answer")
        verdict = until(
            lambda: next(iter(v for v in [first_verdict(system)] if v["severity"] != "ok"), None),
            20,
            "the verdict is about Redis",
        )
        assert verdict["text"].startswith("Redis does not answer since 20")
        assert verdict["code"] == "service-unavailable"
    assert_jobs_end_and_all_is_well(system, answers)


def test_jobs_of_a_killed_redis_end(system: System) -> None:
    before = [
        system.submit("crasher", b"job %d" % number, prefer="respond-async") for number in range(10)
    ]
    system.kill("redis")
    during = [
        system.submit("crasher", b"job %d" % number, prefer="respond-async")
        for number in range(10, 20)
    ]
    assert {answer.status_code for answer in before + during} == {202}
    assert_jobs_end_and_all_is_well(system, before + during)


def test_jobs_that_a_worker_holds_end_when_redis_writes_again(
    system: System, tmp_path: Path
) -> None:
    """Redis cannot write until the locks of these jobs have expired, for they are not renewed."""
    ran, numbers = tmp_path / "ran", [str(number) for number in range(10)]
    jobs = [system.accept("counting", f"{ran} {number} 1000".encode()) for number in numbers]
    until(ran.exists, 20, "the first job runs")
    with full_disk(system):
        until(lambda: system.job(jobs[0])["status"] == "succeeded", 10, "a reply needs no Redis")
        log = system.data / "logs" / "worker.log"
        until(lambda: "outcome lock-lost" in log.read_text(), 20, "the worker has lost locks")
        assert 1 < len(ran.read_text().split()) < len(jobs)
    found = [system.final(job_id) for job_id in jobs]
    assert [each["status"] for each in found] == ["succeeded"] * len(jobs), found
    assert [each["result"]["number"] for each in found] == numbers
    # A job that ran while its lock expired may run once more; one that had run before does not,
    # because the worker has kept its reply.
    times = Counter(ran.read_text().split())
    assert sorted(times, key=int) == numbers
    assert times["0"] == 1
    with connected(system) as client:
        until(lambda: not client.xlen(queue_key("counting")), 20, "the queue is empty")
