"""Test lost locks, priorities, cached replies, and messages returned to the queue."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from contract.messages import InlineJson, JobReply
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_metrics import ScrapedMetrics
from tests.conformance.worker.worker_services import (
    LOCK_SECONDS,
    LocalServices,
    Program,
    job_id,
    message,
    receive,
    submit,
    take,
    wait_until,
)

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(120)]


def result(reply: JobReply) -> dict[str, Any]:
    assert isinstance(reply.outcome, InlineJson)
    assert isinstance(reply.outcome.value, dict)
    return reply.outcome.value


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def process_id(worker: Program) -> int:
    assert worker.process is not None
    return worker.process.pid


def test_stalled_workers_job_goes_to_another(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    stalled = start_worker("long")
    (identity,) = submit(services, gateway, "long", {"folder": str(tmp_path)})
    wait_until(lambda: len(lines(tmp_path / "started")) == 1, "the job runs")
    stalled.signal(signal.SIGSTOP)
    other = start_worker("long")
    wait_until(lambda: len(lines(tmp_path / "started")) == 2, "the other worker runs the job")
    stalled.signal(signal.SIGCONT)
    wait_until(lambda: bool(lines(tmp_path / "stopped")), "the stalled worker stops the job")
    (tmp_path / "gate").touch()

    reply = gateway.taken(identity)
    assert reply.attempt > 1
    assert result(reply)["process"] == process_id(other)
    assert lines(tmp_path / "stopped") == [[str(process_id(stalled)), "LockLost"]]
    services.wait_until_empty("long")
    assert gateway.posts == [(identity, 202)]
    wait_until(stalled.is_ready, "the stalled worker is ready again")
    left = "lock-lost; settlement leave, delivery 1,"
    wait_until(lambda: left in stalled.log.read_text(), "the stalled worker leaves the message")


def test_cached_reply_spares_a_second_run(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    worker = start_worker("single")
    identity = job_id()
    gateway.answers[identity] = [503] * 1000
    services.send("single", message(gateway, identity, "single", {"do": "x"}))
    gateway.wait_for(lambda: bool(gateway.posts))
    worker.signal(signal.SIGSTOP)
    threading.Event().wait(LOCK_SECONDS * 1.2)
    worker.signal(signal.SIGCONT)
    wait_until(lambda: "lock-lost" in worker.log.read_text(), "the lock is lost")
    with gateway.changed:
        gateway.answers[identity] = []

    reply = gateway.taken(identity)
    assert reply.attempt == 1
    assert result(reply)["batch"] == 1
    services.wait_until_empty("single")
    assert "need not run again" in worker.log.read_text()
    metrics = ScrapedMetrics(worker)
    assert metrics.value("batch_size_count", model="single") == 1
    for name in ("lock_losses_total", "redeliveries_total", "results_at_hand_total"):
        assert metrics.value(name, model="single") == 1, name
    (another,) = submit(services, gateway, "single", {"do": "x"})
    assert result(gateway.taken(another))["batch"] == 2


def test_message_that_comes_again_during_its_run_does_not_run_twice(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker, gate, running = start_worker("single"), tmp_path / "gate", tmp_path / "running"
    task = {"do": "wait", "running": str(running), "gate": str(gate)}
    (identity,) = submit(services, gateway, "single", task)
    wait_until(running.exists, "the job runs")
    worker.signal(signal.SIGSTOP)
    threading.Event().wait(LOCK_SECONDS * 1.2)
    worker.signal(signal.SIGCONT)
    metrics = ScrapedMetrics(worker)
    name = "redeliveries_total"
    wait_until(lambda: metrics.value(name, model="single") == 1, "the message comes again")
    gate.touch()

    assert result(gateway.taken(identity))["batch"] == 1
    services.wait_until_empty("single")
    assert len(gateway.posts) == 1
    (another,) = submit(services, gateway, "single", {"do": "x"})
    assert result(gateway.taken(another))["batch"] == 2


def test_low_priority_jobs_run_last(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    gate, running = tmp_path / "gate", tmp_path / "running"
    task = {"do": "wait", "running": str(running), "gate": str(gate)}
    worker = start_worker("patient")
    low = [job_id() for _ in range(5)]
    services.send("patient-low", message(gateway, low[0], "patient", task))
    wait_until(running.exists, "a low-priority job runs")
    services.send("patient-low", *(message(gateway, i, "patient", {"do": "x"}) for i in low[1:]))
    wait_until(lambda: worker.held("patient") == 2, "one runs, one waits")
    normal = submit(services, gateway, "patient", *[{"do": "x"}] * 2)
    wait_until(lambda: worker.held("patient") == 4, "the worker holds the normal jobs too")
    with services.receiver("patient-low") as receiver:
        others = receive(receiver, 3)
        assert [other.message_id for other in others] == low[2:], (
            "the worker received more than its capacity"
        )
        assert {other.delivery_count for other in others} == {0}
        for other in others:
            receiver.abandon_message(other)
    gate.touch()
    batches = {identity: result(gateway.taken(identity))["batch"] for identity in (*low, *normal)}
    assert batches[low[0]] == 1
    assert {batches[identity] for identity in normal} == {2, 3}
    assert batches[low[1]] == 4
    services.wait_until_empty("patient-low")


def test_missing_low_priority_queue_is_no_fault(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    catalogue = tmp_path / "models.toml"
    entry = services.catalogue_path.read_text().partition("[single]")[2].partition("\n[")[0]
    # The model uses the queue scripted-low. A queue scripted-low-low does not exist.
    catalogue.write_text('[single]\nqueue = "scripted-low"' + entry)
    worker = start_worker("single", MODEL_CATALOGUE=str(catalogue))
    identity = job_id()
    services.send("scripted-low", message(gateway, identity, "single", {"do": "x"}))
    assert gateway.taken(identity).attempt == 1
    missing = "does not answer; the worker tries again: the queue scripted-low-low does not exist"
    wait_until(lambda: missing in worker.log.read_text(), "the missing queue is logged")
    assert worker.log.read_text().count(missing) == 1


def test_shutdown_under_load_runs_each_job_once(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    leaving, staying = start_worker("scripted"), start_worker("scripted")
    jobs = [job_id() for _ in range(80)]
    task = {"do": "sleep", "ms": 30}
    # The worker shuts down while most of the jobs have no reply.
    gateway.after_posts = 11, lambda: leaving.signal(signal.SIGTERM)
    services.send("scripted", *(message(gateway, i, "scripted", task) for i in jobs))
    assert leaving.exit_code() == 0

    assert {gateway.taken(identity).attempt for identity in jobs} == {1}
    services.wait_until_empty("scripted")
    assert sorted(gateway.posts) == sorted((identity, 202) for identity in jobs)
    assert staying.is_ready()


def test_lost_device_returns_all_jobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    loses, *others = (job_id() for _ in range(4))
    gate, running = tmp_path / "gate", tmp_path / "running"
    task = {"do": "lose-device", "running": str(running), "gate": str(gate)}
    worker = start_worker("single")
    services.send("single", message(gateway, loses, "single", task))
    # Several threads prepare jobs, so another job could run first.
    wait_until(running.exists, "the job that loses the device runs")
    services.send("single", *(message(gateway, i, "single", {"do": "x"}) for i in others))
    wait_until(lambda: worker.held("single") == 2, "one runs, one waits")
    gate.touch()
    assert worker.exit_code() == 70
    assert "the device is lost" in worker.log.read_text()
    with services.receiver("single") as receiver:
        back = take(receiver, 4)
        counts = {message.message_id: message.delivery_count for message in back}
        assert counts == {loses: 1, **dict.fromkeys(others, 0)}, (
            "only the delivery of the job that lost the device counts"
        )
    assert gateway.posts == []


def test_lost_device_during_a_load_exits(start_worker: StartWorker) -> None:
    worker = start_worker("faulty", wait=False)
    assert worker.exit_code() == 70
    assert "the device is lost" in worker.log.read_text()
