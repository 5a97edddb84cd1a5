"""Test the streams of jobs whose workers are stopped, killed or without a store."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from contract.messages import InlineJson, JobError
from contract.streams import StreamEvent, StreamEventType
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    LocalServices,
    Program,
    job_id,
    message,
    wait_until,
)
from tests.ports import free_port
from tests.stream_stores import BlobLogs, RedisLogs, running_redis

Store = tuple[BlobLogs | RedisLogs, Mapping[str, str]]


@pytest.fixture(params=["blobs", "redis"])
def store(
    request: pytest.FixtureRequest, services: LocalServices, tmp_path: Path
) -> Iterator[Store]:
    """Yield the logs of a store, and the settings of a worker that writes them."""
    logs: BlobLogs | RedisLogs
    if request.param == "blobs":
        logs = BlobLogs(services.blobs_url)
        yield logs, {}
        logs.close()
        return
    with running_redis(tmp_path) as url:
        logs = RedisLogs(url)
        yield logs, {"STREAM_REDIS_URL": url}
        logs.close()


def events(logs: BlobLogs | RedisLogs, identity: str) -> list[StreamEvent]:
    return [each for each in logs.events(identity) if each is not None]


def chunks(logs: BlobLogs | RedisLogs, identity: str, attempt: int) -> list[Any]:
    found = events(logs, identity)
    is_chunk = StreamEventType.CHUNK
    return [each.data for each in found if each.type is is_chunk and each.attempt == attempt]


def talk(services: LocalServices, gateway: Gateway, folder: Path) -> str:
    """Submit a job that emits until the folder has a gate, and return its id."""
    identity = job_id()
    task = {"folder": str(folder)}
    services.send("talking", message(gateway, identity, "talking", task, stream=True))
    return identity


def result(gateway: Gateway, identity: str) -> dict[str, Any]:
    outcome = gateway.taken(identity).outcome
    assert isinstance(outcome, InlineJson)
    assert isinstance(outcome.value, dict)
    return outcome.value


def process_id(worker: Program) -> int:
    assert worker.process is not None
    return worker.process.pid


def test_stalled_worker_writes_nothing_more(
    services: LocalServices,
    gateway: Gateway,
    start_worker: StartWorker,
    store: Store,
    tmp_path: Path,
) -> None:
    logs, settings = store
    stalled = start_worker("talking", **settings)
    identity = talk(services, gateway, tmp_path)
    wait_until(lambda: len(chunks(logs, identity, 1)) > 5, "the first worker writes")
    stalled.signal(signal.SIGSTOP)
    other = start_worker("talking", **settings)
    wait_until(lambda: len(chunks(logs, identity, 2)) > 5, "the other worker writes")
    before = events(logs, identity)
    stalled.signal(signal.SIGCONT)
    wait_until((tmp_path / "stopped").exists, "the stalled worker stops the job")
    count = len(chunks(logs, identity, 2))
    wait_until(lambda: len(chunks(logs, identity, 2)) > count + 20, "the other worker goes on")
    (tmp_path / "gate").touch()

    found = result(gateway, identity)
    assert found["process"] == process_id(other)
    after = events(logs, identity)
    assert after[: len(before)] == before
    assert {each.attempt for each in after[len(before) :]} == {2}
    assert chunks(logs, identity, 2) == list(range(found["chunks"]))
    for attempt in (1, 2):
        numbers = [each.number for each in after if each.attempt == attempt]
        assert numbers == list(range(len(numbers)))
    delivery = gateway.taken(identity).timing.delivery
    assert delivery is not None
    assert delivery["chunks"] == found["chunks"]
    assert "stream_lost" not in delivery
    assert delivery["first_chunk_ms"] < delivery["ran_ms"]


def test_killed_worker_leaves_a_whole_log(
    services: LocalServices,
    gateway: Gateway,
    start_worker: StartWorker,
    store: Store,
    tmp_path: Path,
) -> None:
    logs, settings = store
    killed = start_worker("talking", **settings)
    identity = talk(services, gateway, tmp_path)
    wait_until(lambda: len(chunks(logs, identity, 1)) > 5, "the first worker writes")
    killed.kill()
    start_worker("talking", **settings)
    wait_until(lambda: len(chunks(logs, identity, 2)) > 5, "the other worker writes")
    (tmp_path / "gate").touch()
    found = result(gateway, identity)
    assert chunks(logs, identity, 2) == list(range(found["chunks"]))
    assert {each.type for each in events(logs, identity)} == {
        StreamEventType.ATTEMPT,
        StreamEventType.CHUNK,
        StreamEventType.PROGRESS,
    }


def test_run_in_a_smaller_batch_is_announced(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    logs = BlobLogs(services.blobs_url)
    jobs = {say: job_id() for say in ("good", "bad")}
    start_worker("echoing")
    services.send(
        "echoing",
        *(message(gateway, jobs[say], "echoing", {"say": say}, stream=True) for say in jobs),
    )
    outcomes = {say: gateway.taken(jobs[say]).outcome for say in jobs}
    assert outcomes["good"] == InlineJson([{"say": "good"}])
    assert isinstance(outcomes["bad"], JobError)
    attempt, chunk = StreamEventType.ATTEMPT, StreamEventType.CHUNK
    for identity in jobs.values():
        found = events(logs, identity)
        assert [each.type for each in found] == [attempt, chunk, attempt, chunk]
        assert [each.id for each in found] == ["1-0", "1-1", "1-2", "1-3"]
    logs.close()


def test_job_succeeds_without_its_store(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker("talking", STREAM_REDIS_URL=f"redis://127.0.0.1:{free_port()}")
    identity = talk(services, gateway, tmp_path)
    (tmp_path / "gate").touch()
    result(gateway, identity)
    delivery = gateway.taken(identity).timing.delivery
    assert delivery is not None
    assert delivery["stream_lost"] is True
    assert delivery["replied_ms"] - delivery["ran_ms"] < 4000
