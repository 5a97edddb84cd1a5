"""Test that models that do not fit into memory together are loaded in turn, and no job fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import InlineJson, JobError
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_heavy import CATALOGUE, GIB, entry
from tests.conformance.worker.worker_services import (
    START_SECONDS,
    LocalServices,
    Program,
    job_id,
    message,
    run_services,
    wait_until,
)
from tests.conformance.worker.worker_sharing import (
    TURN_SECONDS,
    send_interleaved,
    sharing,
    turn_seconds,
    waits,
)
from worker.memory.simulated_device import AccountRecord

pytestmark = pytest.mark.thorough

JOBS_COUNT = 200
GATED = entry("gated", 1, "").replace("worker_heavy", "worker_models")
# The time until the worker has noticed a waiting model, has finished the jobs of the other model,
# and has loaded the waiting model.
SWITCH_SECONDS = 0.75


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    with run_services(tmp_path_factory.mktemp("memory-services"), CATALOGUE + GATED) as running:
        yield running


def square(gateway: Gateway, identity: str) -> int:
    outcome = gateway.taken(identity).outcome
    assert isinstance(outcome, InlineJson), outcome
    value: int = outcome.value["square"]
    return value


@pytest.mark.timeout(120)
@pytest.mark.parametrize("process_count", [1, 2])
def test_models_that_do_not_fit_take_turns(
    services: LocalServices,
    gateway: Gateway,
    start_worker: StartWorker,
    tmp_path: Path,
    process_count: int,
) -> None:
    settings = sharing(tmp_path)
    workers = [start_worker("three,six", **settings) for _ in range(process_count)]
    jobs = send_interleaved(services, gateway, JOBS_COUNT)

    assert {i: square(gateway, i) for i in jobs} == {i: n**2 for i, n in jobs.items()}

    record = AccountRecord.read(tmp_path / "cpu" / "account")
    assert 6 * GIB <= record.peak_bytes <= 8 * GIB
    assert record.refused_count == 0, "memory was used that was not reserved"
    # Two models with the same amount of work wait for each other's turns.
    fair_seconds = max(TURN_SECONDS + SWITCH_SECONDS, turn_seconds(workers))
    # Two processes that serve the same model may finish its jobs in one turn.
    assert len(waits(workers)) >= (3 if process_count == 1 else 1), "the models did not take turns"
    assert max(waits(workers)) <= 2 * fair_seconds


def test_valid_jobs_survive_an_out_of_memory_batch(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    worker = start_worker("picky")
    jobs = {job_id(): number for number in range(64)}
    services.send("picky", *(message(gateway, i, "picky", {"n": n}) for i, n in jobs.items()))
    assert {i: square(gateway, i) for i in jobs} == {i: n**2 for i, n in jobs.items()}
    sizes = [gateway.taken(identity).timing.batch_size for identity in jobs]
    assert max(sizes) <= 8, "a larger batch succeeded"
    log = worker.log.read_text()
    assert 1 <= log.count("ran out of memory; later batches") <= 2, (
        "the batch limit was not learned"
    )

    jobs = {job_id(): number for number in range(64)}
    tasks = {i: {"n": n} | ({"bad": True} if n % 8 == 0 else {}) for i, n in jobs.items()}
    services.send("picky", *(message(gateway, i, "picky", task) for i, task in tasks.items()))
    for identity, number in jobs.items():
        outcome = gateway.taken(identity).outcome
        if number % 8:
            assert outcome == InlineJson({"square": number**2})
        else:
            assert isinstance(outcome, JobError)
            assert (outcome.code, outcome.message) == ("invalid-input", f"{number} is bad")
    services.wait_until_empty("picky")


@pytest.mark.timeout(120)
def test_draining_worker_unloads_an_idle_model(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    # The other worker must start during the drain, however slow the machine is.
    leaving = start_worker("three,gated", WORKER_DRAIN_SECONDS="600", **sharing(tmp_path))
    wait_until(lambda: all(told["loaded"] for told in models(leaving).values()), "both are loaded")
    last, running, gate = job_id(), tmp_path / "running", tmp_path / "gate"
    task = {"do": "wait", "running": str(running), "gate": str(gate)}
    services.send("gated", message(gateway, last, "gated", task))
    wait_until(running.exists, "the job runs")
    leaving.signal(signal.SIGTERM)
    wait_until(lambda: not models(leaving)["three"]["loaded"], "the idle model is unloaded")
    coming = start_worker("six", **sharing(tmp_path))
    wait_until(lambda: models(coming)["six"]["loaded"], "the memory is free")
    assert models(leaving)["gated"]["loaded"]
    gate.touch()
    assert isinstance(gateway.taken(last).outcome, InlineJson)
    assert leaving.exit_code() == 0


def models(worker: Program) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(worker.probe, timeout=START_SECONDS).json()["models"]
    return found
