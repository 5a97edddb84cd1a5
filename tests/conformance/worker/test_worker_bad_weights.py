"""Test that a worker refuses bad weights, and that jobs of models with bad weights stay queued."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from azure.core.exceptions import ResourceExistsError
from azure.storage.blob import BlobServiceClient

from contract.messages import InlineBytes, InlineJson
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    LocalServices,
    Program,
    job_id,
    message,
    run_services,
    wait_until,
)

pytestmark = [pytest.mark.torch, pytest.mark.thorough, pytest.mark.timeout(120)]

ENTRY = """
[{name}]
description = "Three numbers in, two out."
implementation = "tests.conformance.worker.weighed_model"
media_types = ["application/json"]
max_batch_size = 4
max_wait_ms = 0
lock_seconds = 5
weights = "blob:weights/nets/{name}.pth"
weights_sha256 = "{sha256}"
"""


class Malicious:
    """An object that creates a folder when it is unpickled, to show that code was executed."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._trace),)


def saved(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def good(bias: float) -> bytes:
    """Return the weights of a network that adds `bias` to the first two of three numbers."""
    return saved({"weight": torch.eye(2, 3), "bias": torch.full((2,), bias)})


# Different weights, because weights with the same digest are fetched once.
RIGHT = {"good": good(0.5), "mismatched": good(1.5), "missing": good(2.5)}
OTHER = good(9.0)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a folder that does not exist.

    If a worker executes the code in the malicious weights, this code creates the folder.
    """
    return tmp_path_factory.mktemp("trace") / "executed"


@pytest.fixture(scope="module")
def blobs(trace: Path) -> dict[str, bytes]:
    """Return the content of the weights blob of each model, by the name of the model."""
    return {
        "good": RIGHT["good"],
        "mismatched": OTHER,
        "malicious": saved({"weight": Malicious(trace)}),
        "truncated": good(3.5)[:900],
        "misshapen": saved({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}),
        "missing": b"",
    }


@pytest.fixture(scope="module")
def own_world(
    tmp_path_factory: pytest.TempPathFactory, blobs: dict[str, bytes]
) -> Iterator[LocalServices]:
    expected = {**blobs, **RIGHT}
    catalogue = "".join(
        ENTRY.format(name=name, sha256=hashlib.sha256(data).hexdigest())
        for name, data in expected.items()
    )
    with run_services(tmp_path_factory.mktemp("weights-services"), catalogue) as running:
        for name, data in blobs.items():
            if data:
                upload(running, name, data)
        yield running


@pytest.fixture
def worker(own_world: LocalServices, gateway: Gateway, tmp_path: Path) -> Iterator[Program]:
    """Yield one worker for all models. Some weights are bad, so the worker never becomes ready."""
    cache = str(tmp_path / "cache")
    program = own_world.worker(gateway.host, "", WORKER_WEIGHTS_CACHE=cache)
    program.start(wait=False)
    yield program
    program.kill()


def upload(services: LocalServices, name: str, data: bytes) -> None:
    with BlobServiceClient.from_connection_string(services.blobs_url) as account:
        container = account.get_container_client("weights")
        with contextlib.suppress(ResourceExistsError):
            container.create_container()
        container.upload_blob(f"nets/{name}.pth", data, overwrite=True)


def readiness(worker: Program) -> tuple[int, dict[str, Any]]:
    try:
        answer = httpx.get(worker.probe, timeout=5)
    except httpx.TransportError:
        return 0, {}
    models: dict[str, Any] = answer.json()["models"]
    return answer.status_code, models


def problems(worker: Program) -> dict[str, str]:
    return {
        name: model["problem"]["code"]
        for name, model in readiness(worker)[1].items()
        if model["problem"]
    }


def deliveries(services: LocalServices, queue: str) -> list[int]:
    with services.receiver(queue) as receiver:
        return [seen.delivery_count or 0 for seen in receiver.peek_messages(10)]


NUMBERS = InlineBytes("application/json", b"[1.0, 2.0, 3.0]")
CODES = {
    "mismatched": "weights-mismatch",
    "malicious": "weights-unsafe",
    "truncated": "weights-damaged",
    "misshapen": "weights-unfit",
    "missing": "weights-missing",
}


def test_jobs_of_an_unloaded_model_stay_queued(
    own_world: LocalServices, gateway: Gateway, worker: Program, trace: Path, tmp_path: Path
) -> None:
    jobs = {name: job_id() for name in ("good", *CODES)}
    for name, identity in jobs.items():
        own_world.send(name, message(gateway, identity, name, NUMBERS))

    wait_until(
        lambda: problems(worker) == CODES, "each model with bad weights has its problem code"
    )
    status, models = readiness(worker)
    assert status == 503
    assert [name for name, model in models.items() if model["loaded"]] == ["good"]
    # The good model of the same worker answers meanwhile.
    assert gateway.taken(jobs["good"]).outcome == InlineJson([1.5, 2.5])

    assert not trace.exists()
    digest = hashlib.sha256(OTHER).hexdigest()
    assert digest in models["mismatched"]["problem"]["detail"]
    assert not (tmp_path / "cache" / digest).exists()
    assert {name: deliveries(own_world, name) for name in CODES} == {name: [0] for name in CODES}

    for name in ("mismatched", "missing"):
        upload(own_world, name, RIGHT[name])
    assert gateway.taken(jobs["mismatched"]).outcome == InlineJson([2.5, 3.5])
    assert gateway.taken(jobs["missing"]).outcome == InlineJson([3.5, 4.5])
    healed = {name: code for name, code in CODES.items() if name not in RIGHT}
    wait_until(
        lambda: problems(worker) == healed, "the models with repaired weights have no problem"
    )
