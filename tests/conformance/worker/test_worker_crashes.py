"""Test that every job is answered if processes are killed, stopped by signals or restarted."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from tests.conformance.worker.worker_services import (
    LOCK_SECONDS,
    START_SECONDS,
    LocalServices,
    Program,
    job_id,
    message,
    receive,
    submit,
    take,
    wait_until,
)
from tests.ports import free_port

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]


class Gate:
    """Keeps jobs running until the test calls `open`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._gate = folder / "gate"
        self._running = folder / "running"

    def task(self) -> dict[str, Any]:
        return {"do": "wait", "running": str(self._running), "gate": str(self._gate)}

    def wait_until_running(self) -> None:
        wait_until(self._running.exists, "a job runs")

    def open(self) -> None:
        self._gate.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_killed_workers_jobs_run_elsewhere(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    first = start_worker("scripted")
    jobs = submit(services, gateway, "scripted", *[gate.task()] * 6)
    gate.wait_until_running()
    wait_until(lambda: first.held("scripted") == len(jobs), "the worker holds all jobs")
    first.kill()
    gate.open()
    start_worker("scripted")

    assert [gateway.taken(identity).attempt for identity in jobs] == [2] * len(jobs)
    services.wait_until_empty("scripted")
    assert len(gateway.posts) == len(jobs)


def test_job_that_kills_workers_is_dead_lettered(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    (identity,) = submit(services, gateway, "single", {"do": "die"})
    start_worker("single", WORKER_LOCK_FOLDER=str(tmp_path), WORKER_RESTART="on")
    letter = services.dead_letter("single", identity)
    assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert letter.delivery_count == 3
    assert (letter.dead_letter_error_description or "").startswith(
        "3 deliveries of the message fai"
    )


def test_load_that_kills_does_not_count_against_jobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    settings = {"WORKER_LOCK_FOLDER": str(tmp_path / "locks"), "MODEL_DIES_AT": str(gate)}
    worker = start_worker("once,dying", wait=False, WORKER_RESTART="on", **settings)
    jobs = [job_id(), job_id()]
    services.send("once", message(gateway, jobs[0], "once", {"do": "x"}))
    wait_until(lambda: _is_holding(worker, "once"), "the worker holds the job")
    gate.touch()
    # The next processes load the model that has killed the first one before they receive a job.
    wait_until(lambda: "tries again in 300" in worker.log.read_text(), "the model is set aside")
    services.send("once", message(gateway, jobs[1], "once", {"do": "x"}))
    assert [gateway.taken(identity).attempt for identity in jobs] == [2, 1]


def _is_holding(worker: Program, model: str) -> bool:
    try:
        return worker.held(model) == 1
    except httpx.TransportError:
        return False


def test_job_longer_than_its_lock_gets_one_reply(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    worker = start_worker("single")
    (identity,) = submit(services, gateway, "single", gate.task())
    gate.wait_until_running()
    opener = threading.Timer(LOCK_SECONDS * 1.6, gate.open)
    opener.start()

    assert gateway.taken(identity).attempt == 1
    services.wait_until_empty("single")
    assert len(gateway.posts) == 1
    assert "lost the lock" not in worker.log.read_text()


def test_full_worker_locks_no_more_messages(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    worker = start_worker("patient")
    jobs = submit(services, gateway, "patient", *[gate.task()] * 6)
    gate.wait_until_running()
    wait_until(lambda: worker.held("patient") == 2, "one runs, one waits")

    with services.receiver("patient") as receiver:
        others = receive(receiver, 4)
        assert [message.message_id for message in others] == jobs[2:]
        assert [message.delivery_count for message in others] == [0] * 4
        for message_ in others:
            receiver.abandon_message(message_)
    gate.open()
    for identity in jobs:
        gateway.taken(identity)
    services.wait_until_empty("patient")


def test_sigterm_returns_waiting_jobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    worker = start_worker("single")
    runs, waits, comes = job_id(), job_id(), job_id()
    services.send("single", message(gateway, runs, "single", gate.task()))
    gate.wait_until_running()
    services.send("single", message(gateway, waits, "single", {"do": "x"}))
    wait_until(lambda: worker.held("single") == 2, "one runs, one waits")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: not worker.is_ready(), "the worker is not ready")
    wait_until(lambda: worker.held("single") == 1, "the waiting message is returned")
    services.send("single", message(gateway, comes, "single", {"do": "x"}))

    with services.receiver("single") as receiver:
        back = take(receiver, 2)
        assert [message.message_id for message in back] == [waits, comes]
        assert [message.delivery_count for message in back] == [0, 0], (
            "the release counted as a delivery"
        )
    # Let the job outlast the lock duration: a draining worker must renew the lock.
    threading.Timer(LOCK_SECONDS * 1.2, gate.open).start()
    assert worker.exit_code() == 0
    assert gateway.taken(runs).attempt == 1
    services.wait_until_empty("single")


def test_draining_worker_receives_nothing(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    worker = start_worker("scripted")
    runs, comes = job_id(), job_id()
    services.send("scripted", message(gateway, runs, "scripted", gate.task()))
    gate.wait_until_running()
    # The worker has capacity and has given the broker credit. During the drain it must take the
    # credit back.
    worker.signal(signal.SIGTERM)
    wait_until(lambda: "shutting down" in worker.log.read_text(), "the worker drains")
    threading.Event().wait(0.5)
    services.send("scripted", message(gateway, comes, "scripted", {"do": "x"}))
    with services.receiver("scripted") as receiver:
        # The message is free. If the worker had received it, its lock would expire first, and its
        # delivery count would be 1.
        (free,) = take(receiver, 1)
        assert (free.message_id, free.delivery_count) == (comes, 0)
    gate.open()
    assert worker.exit_code() == 0
    gateway.taken(runs)


def test_idle_worker_exits_immediately(start_worker: StartWorker, services: LocalServices) -> None:
    worker = start_worker("noop")
    worker.signal(signal.SIGINT)
    assert worker.exit_code() == 0
    assert "Traceback" not in worker.log.read_text()


def test_second_signal_or_grace_period_ends_a_run(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    patient = start_worker("single")
    hasty = start_worker("scripted", WORKER_DRAIN_SECONDS="0.5")
    jobs = {"single": job_id(), "scripted": job_id()}
    gates = {queue: Gate(tmp_path / queue) for queue in jobs}
    for queue, identity in jobs.items():
        services.send(queue, message(gateway, identity, queue, gates[queue].task()))
    for gate in gates.values():
        gate.wait_until_running()
    hasty.signal(signal.SIGTERM)
    assert hasty.exit_code() == 0
    assert "abandoning 1 unfinished jobs" in hasty.log.read_text()
    assert "not-finished; settlement abandon" in hasty.log.read_text()
    patient.signal(signal.SIGTERM)
    wait_until(lambda: "shutting down" in patient.log.read_text(), "the worker drains")
    patient.signal(signal.SIGTERM)
    assert patient.exit_code() == 128 + signal.SIGTERM

    for gate in gates.values():
        gate.open()
    start_worker("single,scripted")
    assert [gateway.taken(identity).attempt for identity in jobs.values()] == [2, 2]


def test_service_bus_restart_is_survived(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, gate: Gate
) -> None:
    worker = start_worker("scripted")
    jobs = [job_id() for _ in range(6)]
    services.send("scripted", *(message(gateway, i, "scripted", gate.task()) for i in jobs[:4]))
    gate.wait_until_running()
    services.service_bus.kill()
    gate.open()
    for identity in jobs[:4]:
        gateway.taken(identity)
    services.service_bus.start()
    services.send("scripted", *(message(gateway, i, "scripted", {"do": "x"}) for i in jobs[4:]))
    for identity in jobs:
        gateway.taken(identity)
    services.wait_until_empty("scripted")
    assert worker.is_ready()
    log = worker.log.read_text()
    assert log.count("queue scripted does not answer") == 1
    assert "Traceback" not in log


def test_worker_that_started_first_becomes_ready(services: LocalServices, gate: Gate) -> None:
    port = free_port()
    services.service_bus.kill()
    services.blobs.kill()
    worker = services.worker(f"127.0.0.1:{port}", "scripted")
    try:
        worker.start(wait=False)
        wait_until(
            lambda: worker.log.exists() and "answer" in worker.log.read_text(),
            "the worker tries to connect",
        )
        live = worker.probe.replace("/ready", "/live")
        assert httpx.get(live, timeout=START_SECONDS).status_code == 200
        assert httpx.get(worker.probe, timeout=START_SECONDS).status_code == 503
        services.service_bus.start()
        wait_until(worker.is_ready, "the worker is ready")
        with run_gateway() as elsewhere:
            identity = job_id()
            url = elsewhere.url(identity).replace(elsewhere.host, f"127.0.0.1:{port}")
            task = {"do": "big", "size_bytes": 100_000}
            services.send("scripted", message(elsewhere, identity, "scripted", task, reply_url=url))
        wait_until(
            lambda: "blob storage does not" in worker.log.read_text(), "missing blobs are logged"
        )
        services.blobs.start()
        wait_until(
            lambda: "the gateway does not" in worker.log.read_text(), "a missing gateway is logged"
        )
        with run_gateway(port) as gateway:
            assert gateway.taken(identity).attempt == 1
            services.wait_until_empty("scripted")
    finally:
        worker.kill()
        for service in (services.service_bus, services.blobs):
            service.kill()
            service.start()
