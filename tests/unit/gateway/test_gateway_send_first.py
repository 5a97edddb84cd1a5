"""Test that a job's message is sent before the job's orchestration is started."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from contract.messages import INLINE_LIMIT_BYTES, InlineBytes
from contract.names import EVENT_REPLY
from gateway.errors import UnknownInstance
from gateway.submission import create
from gateway.submission.create import SEND_LATER
from tests.unit.gateway.conftest import RunningGateway

ROOT = Path(__file__).parents[3]
LARGE = b"x" * (INLINE_LIMIT_BYTES + 1)


def ticket_of(gateway: RunningGateway, job_id: str) -> dict[str, Any]:
    ticket: dict[str, Any] = json.loads(gateway.durable.runs[job_id].input)
    return ticket


async def test_ticket_of_a_sent_job_has_no_input(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(b"private input")
    assert ticket_of(gateway, job_id)["sent"] is True
    assert set(ticket_of(gateway, job_id)["request"]) == {
        "job_id",
        "model",
        "created_at",
        "deadline",
    }
    assert gateway.queues.request().input == InlineBytes(
        "application/octet-stream", b"private input"
    )


async def test_input_too_large_for_the_history_is_sent(gateway: RunningGateway) -> None:
    await gateway.accept(LARGE)
    assert gateway.queues.request().input == InlineBytes("application/octet-stream", LARGE)
    assert not gateway.payloads.blobs


async def test_caller_waits_briefly_for_an_unsent_job(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "UNSENT_WAIT_SECONDS", 0.02)
    gateway.queues.is_down = True
    async with asyncio.timeout(10):  # the caller would wait 30 s
        answer = await gateway.http.post("/v1/models/noop/jobs", content=b"x")
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"


async def test_large_input_is_refused_without_blobs_and_bus(gateway: RunningGateway) -> None:
    gateway.queues.is_down = gateway.payloads.is_down = True
    answer = await gateway.http.post("/v1/models/noop/jobs", content=LARGE)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert not gateway.durable.runs


async def test_queue_is_left_alone_after_a_failed_send(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    await gateway.accept()
    gateway.queues.is_down = False
    second = await gateway.accept()
    assert "sent" not in ticket_of(gateway, second)
    gateway.clock.now += SEND_LATER
    third = await gateway.accept()
    assert ticket_of(gateway, third)["sent"] is True


async def test_failed_send_delays_no_other_model(gateway: RunningGateway) -> None:
    gateway.queues.missing = {"noop"}
    assert "sent" not in ticket_of(gateway, await gateway.accept())
    picture = (ROOT / "examples" / "chelsea.jpg").read_bytes()
    answer = await gateway.submit("classifier", content=picture)
    assert ticket_of(gateway, answer.json()["id"])["sent"] is True


async def test_reply_before_the_orchestration_is_recorded(gateway: RunningGateway) -> None:
    gateway.durable.is_down = True
    answer = await gateway.http.post("/v1/models/noop/jobs", content=b"x")
    assert answer.status_code == 503
    request = gateway.queues.request()
    gateway.durable.is_down = False
    # The reply finds no orchestration, but its outcome is recorded.
    assert (await gateway.reply(request)).status_code == 404
    found = await gateway.services.outcomes.find(request.job_id)
    assert found is not None
    assert found.status == "succeeded"
    # The worker sends the reply again. The reply gets 410, because it is no longer needed.
    assert (await gateway.reply(request)).status_code == 410


async def test_event_is_raised_until_the_orchestration_exists(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await gateway.accept()
    calls: list[str] = []
    raise_event = gateway.durable.raise_event

    async def raise_late(job_id: str, name: str, data: Any) -> None:
        calls.append(name)
        if len(calls) < 3:
            raise UnknownInstance(job_id)
        await raise_event(job_id, name, data)

    monkeypatch.setattr(gateway.durable, "raise_event", raise_late)
    assert (await gateway.reply()).status_code == 202
    assert calls == [EVENT_REPLY] * 3
    assert gateway.durable.runs[job_id].status.is_final


async def test_repeat_finds_the_outcome_without_orchestration(gateway: RunningGateway) -> None:
    headers = {"idempotency-key": "one"}
    gateway.durable.is_down = True
    answer = await gateway.submit(content=b"x", headers=headers)
    assert answer.status_code == 503
    gateway.durable.is_down = False
    request = gateway.queues.request()
    await gateway.reply(request)
    again = await gateway.submit(content=b"x", headers=headers)
    assert again.json()["id"] == request.job_id
    assert (await gateway.job(request.job_id))["status"] == "succeeded"
