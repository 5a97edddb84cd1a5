"""Test that a job which runs longer than `max_run_seconds` fails, and that the worker continues."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from contract.messages import InlineJson, JobError, JobReply
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import LocalServices, submit


def outcome(reply: JobReply) -> str:
    if isinstance(reply.outcome, JobError):
        return reply.outcome.code
    assert isinstance(reply.outcome, InlineJson)
    return str(reply.outcome.value["did"])


def process(reply: JobReply) -> str:
    assert reply.timing.delivery is not None
    return str(reply.timing.delivery["worker"])


def test_job_fails_and_the_process_restarts(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    start_worker("limited", WORKER_RESTART="on", WORKER_LOCK_FOLDER=str(tmp_path / "locks"))
    hanging, waiting = submit(
        services, gateway, "limited", {"do": "hang", "running": str(started)}, {"do": "x"}
    )
    failed, other = gateway.taken(hanging), gateway.taken(waiting)
    assert (outcome(failed), outcome(other)) == ("run-too-long", "x")
    assert isinstance(failed.outcome, JobError)
    assert "longer than 2 s" in failed.outcome.message
    assert process(failed) != process(other)
    assert other.attempt == 1, "the job had not started"
    services.wait_until_empty("limited")
    assert started.read_text() == "run\n"


def test_other_jobs_of_the_batch_run_again(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    tasks: list[dict[str, Any]] = [{"do": "x"}, {"do": "hang"}, {"do": "y"}]
    jobs = submit(
        services, gateway, "limited-batch", *({**each, "running": str(started)} for each in tasks)
    )
    start_worker("limited-batch", WORKER_RESTART="on", WORKER_LOCK_FOLDER=str(tmp_path / "locks"))
    replies = [gateway.taken(job) for job in jobs]
    assert [outcome(reply) for reply in replies] == ["x", "run-too-long", "y"]
    assert {reply.timing.batch_size for reply in replies} == {1}
    services.wait_until_empty("limited-batch")
    assert started.read_text() == "run\n" * 2, "once in the batch and once alone"


def test_undelivered_reply_spares_a_second_run(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    (job,) = submit(services, gateway, "limited", {"do": "hang", "running": str(started)})
    with gateway.changed:
        gateway.answers[job] = [503] * 1000
    worker = start_worker(
        *("limited",),
        WORKER_RESTART="on",
        WORKER_LOCK_FOLDER=str(tmp_path / "locks"),
        WORKER_DRAIN_SECONDS="1",
    )
    gateway.wait_for(lambda: len(gateway.posts) > 0)
    # As if the process was killed between the first try and the settlement of the message.
    assert worker.process is not None
    pid = worker.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    with gateway.changed:
        gateway.answers[job].clear()
    assert outcome(gateway.taken(job)) == "run-too-long"
    services.wait_until_empty("limited")
    assert started.read_text() == "run\n"


@pytest.mark.thorough
@pytest.mark.timeout(150)
def test_job_that_holds_the_gil_is_dead_lettered(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    frozen, waiting = submit(services, gateway, "limited", {"do": "hold-interpreter"}, {"do": "x"})
    worker = start_worker(
        *("limited",), WORKER_RESTART="on", WORKER_LOCK_FOLDER=str(tmp_path / "locks")
    )
    letter = services.dead_letter("limited", frozen)
    assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert "held the interpreter's lock" in worker.log.read_text()
    assert outcome(gateway.taken(waiting)) == "x"
