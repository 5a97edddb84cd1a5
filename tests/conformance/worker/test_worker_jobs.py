"""Test jobs in a worker process: their outcomes, and the settlement of their messages."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from azure.servicebus import ServiceBusMessage
from azure.storage.blob import ContainerClient

from contract.messages import (
    InlineBytes,
    InlineJson,
    JobError,
    JobReply,
    PayloadRef,
    reference,
    verify,
)
from contract.names import PAYLOAD_CONTAINER, input_blob, is_result_blob
from tests.conformance.worker.conftest import StartWorker
from tests.conformance.worker.worker_gateway import Gateway
from tests.conformance.worker.worker_services import (
    LocalServices,
    job_id,
    message,
    receive,
    submit,
    wait_until,
)


def failure(reply: JobReply) -> JobError:
    assert isinstance(reply.outcome, JobError)
    return reply.outcome


def test_every_job_gets_one_reply(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("noop")
    jobs = {job_id(): f"payload {number}".encode() for number in range(40)}
    payloads = {identity: InlineBytes("text/plain", data) for identity, data in jobs.items()}
    services.send(
        "noop", *(message(gateway, i, "noop", payload) for i, payload in payloads.items())
    )

    for identity, data in jobs.items():
        reply = gateway.taken(identity)
        digest = hashlib.sha256(data).hexdigest()
        assert reply.outcome == InlineJson({"size_bytes": len(data), "sha256": digest})
        assert reply.attempt == 1
        assert reply.timing.queued_ms > 0
        assert reply.started_at <= reply.finished_at <= datetime.now(UTC)
    services.wait_until_empty("noop")
    assert len(gateway.posts) == len(jobs)


def test_failing_job_leaves_its_batch(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("scripted")
    tasks = ["a", "raise", "b", "refuse", "no-json", "fail-to-prepare", "c"]
    jobs = {job_id(): task for task in tasks}
    services.send(
        "scripted", *(message(gateway, i, "scripted", {"do": t}) for i, t in jobs.items())
    )

    for identity, task in jobs.items():
        reply = gateway.taken(identity)
        match task:
            case "raise" | "no-json" | "fail-to-prepare":
                assert failure(reply).code == "inference-failed"
                assert "defect" not in failure(reply).message, "shows internal details"
            case "refuse":
                assert failure(reply).code == "invalid-input"
                assert failure(reply).message == "the model wants another input"
            case _:
                assert isinstance(reply.outcome, InlineJson)
                assert reply.outcome.value["did"] == task
    services.wait_until_empty("scripted")


def test_queued_jobs_run_in_batches(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    jobs = submit(services, gateway, "scripted", *[{"do": "x"}] * 8)
    start_worker("scripted")
    sizes = [gateway.taken(identity).timing.batch_size for identity in jobs]
    assert 1 <= min(sizes) <= max(sizes) <= 4
    assert max(sizes) > 1


def test_item_models_jobs_are_answered_one_by_one(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    jobs = [job_id() for _ in range(3)]
    paths = {i: {"running": str(tmp_path / i), "gate": str(tmp_path / f"{i}-gate")} for i in jobs}
    services.send("item", *(message(gateway, i, "item", {"do": "wait", **paths[i]}) for i in jobs))
    worker = start_worker("item")
    waiting = set(jobs)

    def running() -> str | None:
        return next((i for i in waiting if Path(paths[i]["running"]).exists()), None)

    while waiting:
        # Only the first job is alone. Those prepared beside one another run in any order.
        wait_until(lambda: running() is not None, "a job runs")
        identity = running()
        assert identity is not None
        if len(waiting) == len(jobs):
            assert worker.held("item") == 1, "the other jobs are left to other workers"
        waiting.discard(identity)
        assert running() is None, "two jobs ran together"
        Path(paths[identity]["gate"]).touch()
        reply = gateway.taken(identity)
        assert reply.timing.batch_size == 1
        run_ms = (reply.finished_at - reply.started_at).total_seconds() * 1000
        assert reply.timing.inference_ms <= run_ms + 1, "the time of this job alone"


BAD_INPUTS = (
    (InlineBytes("application/json", b"{"), "invalid-input"),
    (InlineBytes("image/jpeg", b"{}"), "unsupported-media-type"),
    (PayloadRef("application/json", "inputs/none", 2, "0" * 64), "payload-corrupt"),
    (PayloadRef("application/json", "inputs/none", 10_485_761, "0" * 64), "invalid-input"),
)


def test_bad_inputs_fail(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    with ContainerClient.from_connection_string(services.blobs_url, PAYLOAD_CONTAINER) as container:
        if not container.exists():
            container.create_container()
    start_worker("scripted")
    jobs = submit(services, gateway, "scripted", *(payload for payload, _ in BAD_INPUTS))
    for identity, (_, code) in zip(jobs, BAD_INPUTS, strict=True):
        error = failure(gateway.taken(identity))
        assert (error.code, error.retryable) == (code, False)
    services.wait_until_empty("scripted")


def test_broken_models_jobs_fail_with_the_reason(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("broken", wait=False, WORKER_BROKEN_MODEL_SECONDS="1")
    (identity,) = submit(services, gateway, "broken", {"do": "x"})
    error = failure(gateway.taken(identity))
    assert (error.code, error.stage, error.retryable) == ("model-broken", "load", True)
    assert "model-failed" in error.message
    assert "there is no module tests.conformance.worker.no_such_module" in error.message
    services.wait_until_empty("broken")


def test_large_inputs_and_results_are_blobs(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("scripted")
    task = {"do": "big", "size_bytes": 300_000, "padding": "y" * 200_000}
    data = json.dumps(task).encode()
    identity, damaged = job_id(), job_id()
    with ContainerClient.from_connection_string(services.blobs_url, PAYLOAD_CONTAINER) as container:
        if not container.exists():
            container.create_container()
        for name in (identity, damaged):
            container.upload_blob(input_blob(name), data)
        ref = reference("application/json", input_blob(identity), data)
        other = reference("application/json", input_blob(damaged), data[:-1] + b" ")
        services.send(
            "scripted",
            message(gateway, identity, "scripted", ref),
            message(gateway, damaged, "scripted", other),
        )
        outcome = gateway.taken(identity).outcome
        assert isinstance(outcome, PayloadRef)
        assert is_result_blob(identity, outcome.blob)
        stored = verify(outcome, container.download_blob(outcome.blob).readall())
        assert len(json.loads(stored)["text"]) == 300_000
    assert failure(gateway.taken(damaged)).code == "payload-corrupt"


def test_invalid_message_is_dead_lettered(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    worker = start_worker("scripted")
    for wrong, reason in (
        ({"schema": 9}, "unsupported-schema"),
        ({"deadline": "soon"}, "malformed-message"),
        ({"model": "noop"}, "wrong-model"),
        ({"reply_to": {"url": "https://elsewhere.example/"}}, "reply-forbidden"),
        (b"\xff\x00", "malformed-message"),
        (b"x" * 200_000, "malformed-message"),
    ):
        identity = job_id()
        good = json.loads(b"".join(message(gateway, identity, "scripted", {"do": "x"}).body))
        body = wrong if isinstance(wrong, bytes) else json.dumps({**good, **wrong})
        services.send("scripted", ServiceBusMessage(body, message_id=identity))
        dead = services.dead_letter("scripted", identity)
        assert dead.dead_letter_reason == reason
        assert dead.dead_letter_error_description
    assert worker.is_ready()
    assert gateway.posts == []


def test_refused_reply_dead_letters_the_message(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("scripted")
    identity = job_id()
    gateway.answers[identity] = [401]
    services.send("scripted", message(gateway, identity, "scripted", {"do": "x"}))
    assert services.dead_letter("scripted", identity).dead_letter_reason == "reply-refused"
    assert gateway.posts == [(identity, 401)]


def test_reply_is_delivered_after_an_outage(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("scripted")
    identity = job_id()
    gateway.answers[identity] = [404, 503, 0, 500]
    services.send("scripted", message(gateway, identity, "scripted", {"do": "x"}))
    assert gateway.taken(identity).attempt == 1
    assert [status for _, status in gateway.posts] == [404, 503, 0, 500, 202]


def test_reply_to_an_ended_job_is_completed(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker
) -> None:
    start_worker("scripted")
    identity = job_id()
    gateway.answers[identity] = [410]
    services.send("scripted", message(gateway, identity, "scripted", {"do": "x"}))
    gateway.wait_for(lambda: bool(gateway.posts))
    services.wait_until_empty("scripted")


def test_ended_or_expired_job_does_not_run(
    services: LocalServices, gateway: Gateway, start_worker: StartWorker, tmp_path: Path
) -> None:
    unwanted, wanted, expired = job_id(), job_id(), job_id()
    running = tmp_path / "running"
    task = {"do": "wait", "running": str(running), "gate": str(tmp_path)}
    gateway.asked_status[unwanted] = 410
    services.send(
        "single",
        message(gateway, unwanted, "single", task),
        message(gateway, wanted, "single", {"do": "x"}),
    )
    with services.receiver("single") as receiver:
        for delivered in receive(receiver, 2):
            receiver.abandon_message(delivered)
    services.send("single", message(gateway, expired, "single", task, deadline_seconds=0))
    start_worker("single")

    assert gateway.taken(wanted).attempt == 2
    services.wait_until_empty("single")
    assert sorted(gateway.asked) == sorted([unwanted, wanted])
    assert [identity for identity, _ in gateway.posts] == [wanted]
    assert not running.exists()
