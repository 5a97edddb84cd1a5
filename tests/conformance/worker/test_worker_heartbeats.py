"""Test the heartbeats that a worker process writes to the local blob storage."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

import contract
from contract.heartbeats import Heartbeat, ModelState, decode_heartbeat
from contract.names import HEARTBEATS, PAYLOAD_CONTAINER
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    LocalServices,
    Program,
    submit,
    wait_until,
)

pytestmark = pytest.mark.thorough

STORAGE_AWAY = "blob storage for heartbeats does not answer"


def name_of(worker: Program) -> str:
    assert worker.process is not None
    return str(worker.process.pid)


def heartbeats(services: LocalServices) -> dict[str, tuple[Heartbeat, datetime]]:
    """Return the heartbeats and the times of their last change, by the worker's process id."""
    with BlobServiceClient.from_connection_string(services.blobs_url) as account:
        container = account.get_container_client(PAYLOAD_CONTAINER)
        try:
            names = [blob.name for blob in container.list_blobs(name_starts_with=HEARTBEATS)]
        except ResourceNotFoundError:
            return {}
        found = {}
        for name in names:
            blob = container.download_blob(name)
            heartbeat = decode_heartbeat(blob.readall())
            assert name == f"{HEARTBEATS}{heartbeat.worker}"
            found[heartbeat.worker.rpartition("-")[2]] = (heartbeat, blob.properties.last_modified)
        return found


def has_beat(
    services: LocalServices, worker: Program, condition: Callable[[Heartbeat], bool]
) -> bool:
    found = heartbeats(services).get(name_of(worker))
    return found is not None and condition(found[0])


def test_states_are_published_until_the_shutdown(
    services: LocalServices, start_worker: StartWorker
) -> None:
    worker = start_worker("scripted,single", WORKER_HEARTBEAT_SECONDS="1")
    wait_until(
        lambda: has_beat(
            services,
            worker,
            lambda beat: {model.state for model in beat.models} == {ModelState.LOADED},
        ),
        "both models are loaded",
    )
    beat, _ = heartbeats(services)[name_of(worker)]
    assert (beat.version, beat.interval_seconds, beat.device) == (contract.VERSION, 1.0, "cpu")
    assert [model.name for model in beat.models] == ["scripted", "single"]
    assert all(model.load_seconds is not None for model in beat.models)
    assert not beat.is_draining
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert name_of(worker) not in heartbeats(services)


def test_jobs_and_last_batch_are_shown(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("long", WORKER_HEARTBEAT_SECONDS="1", WORKER_DEVICE_MEMORY="8GiB")
    (identity,) = submit(services, gateway, "long", {"folder": str(tmp_path)})
    wait_until(
        lambda: has_beat(services, worker, lambda beat: beat.models[0].in_flight == 1),
        "the job is in flight",
    )
    assert heartbeats(services)[name_of(worker)][0].total_bytes == 8 << 30
    (tmp_path / "gate").touch()
    gateway.taken(identity)
    wait_until(
        lambda: has_beat(
            services,
            worker,
            lambda beat: (beat.models[0].in_flight, beat.models[0].batch_size) == (0, 1),
        ),
        "the job has ended",
    )


def test_killed_workers_heartbeat_remains(
    services: LocalServices, start_worker: StartWorker
) -> None:
    worker, other = (start_worker("single", WORKER_HEARTBEAT_SECONDS="1") for _ in range(2))
    wait_until(
        lambda: {name_of(worker), name_of(other)} <= set(heartbeats(services)),
        "both workers are seen",
    )
    worker.kill()
    before = heartbeats(services)
    wait_until(
        lambda: heartbeats(services)[name_of(other)][1] > before[name_of(other)][1],
        "the other worker has written again",
    )
    assert heartbeats(services)[name_of(worker)] == before[name_of(worker)]


def test_failing_storage_is_one_warning(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    worker = start_worker(
        "scripted",
        WORKER_HEARTBEAT_SECONDS="1",
        PAYLOAD_STORAGE="DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        "AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/devstoreaccount1;",
    )
    wait_until(lambda: STORAGE_AWAY in worker.log.read_text(), "the failure is logged")
    for _ in range(3):
        (identity,) = submit(services, gateway, "scripted", {"do": "nothing"})
        gateway.taken(identity)
    assert worker.log.read_text().count(STORAGE_AWAY) == 1
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
