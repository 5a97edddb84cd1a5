"""Test the submission of jobs: requests, messages, which are sent first, and responses."""

import asyncio
import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import INLINE_LIMIT_BYTES, InlineBytes, InlineJson, PayloadRef
from contract.names import EVENT_REPLY
from gateway.errors import UnknownInstance
from gateway.submission import create
from gateway.submission.create import SEND_LATER
from tests.unit.gateway.conftest import RunningGateway, error_body

OCTETS = {"content-type": "application/octet-stream"}


async def submit_and_reply(gateway: RunningGateway, **outcome: Any) -> httpx.Response:
    """Submit a job, reply with `result` or `error` while the request waits; return its response."""
    waiting, request = await gateway.begin()
    assert (await gateway.reply(request, **outcome)).status_code == 202
    return await waiting


async def test_waiting_caller_gets_the_result(gateway: RunningGateway) -> None:
    answer = await submit_and_reply(gateway, result={"json": {"size_bytes": 1}})
    assert answer.status_code == 200
    assert gateway.durable.status_count <= 2, "the reply must wake the request"
    job = answer.json()
    path = f"/v1/jobs/{job['id']}"
    assert job == {
        "id": job["id"],
        "model": "noop",
        "version": "1",
        "label": None,
        "status": "succeeded",
        "created_at": "2026-03-01T12:00:00.000Z",
        "started_at": "2026-03-01T12:00:01.000Z",
        "finished_at": "2026-03-01T12:00:02.000Z",
        "deadline": "2026-03-01T12:01:00.000Z",
        "attempt": 1,
        "progress": None,
        "queue": {"position": None, "eta_seconds": None, "phase": None},
        "result": {"size_bytes": 1},
        "results": {},
        "error": None,
        "timing": {"queued_ms": 4, "inference_ms": 21.5, "batch_size": 2, "total_ms": 0},
        "trace_id": job["trace_id"],
        "links": {"self": path, "result": f"{path}/result", "cancel": path},
    }
    assert answer.headers["content-location"] == path
    assert answer.headers["vary"] == "Prefer"
    assert "preference-applied" not in answer.headers
    assert await gateway.job(job["id"]) == job


@pytest.mark.parametrize(
    ("code", "status", "problem_code"),
    [
        ("invalid-input", 422, "invalid-input"),
        ("unsupported-media-type", 422, "invalid-input"),
        ("inference-failed", 500, "inference-failed"),
        ("payload-corrupt", 500, "inference-failed"),
        ("something-new", 500, "inference-failed"),
        ("dead-lettered", 500, "dead-lettered"),
        ("unavailable", 503, "unavailable"),
    ],
)
async def test_failed_job_is_answered_by_its_problem(
    gateway: RunningGateway, code: str, status: int, problem_code: str
) -> None:
    answer = await submit_and_reply(gateway, error=error_body(code, retryable=True))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == problem_code
    assert problem["retryable"] is True
    assert problem["stage"] == "run"
    assert problem["detail"] == "it did not work"
    assert problem["job"]["status"] == "failed"
    assert problem["job"]["error"]["code"] == code
    assert problem["instance"] == problem["job"]["links"]["self"]
    assert await gateway.job(problem["job"]["id"]) == problem["job"]


async def test_cancelled_job_gets_409(gateway: RunningGateway) -> None:
    waiting, request = await gateway.begin()
    cancelled = await gateway.http.delete(f"/v1/jobs/{request.job_id}")
    assert cancelled.status_code == 202
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")


async def test_respond_async_returns_at_once(gateway: RunningGateway) -> None:
    answer = await gateway.submit(content=b"x", headers=OCTETS)
    assert answer.status_code == 202
    job = answer.json()
    assert job["status"] == "queued"
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["preference-applied"] == "respond-async"
    assert await gateway.job(job["id"]) == job


async def test_message_has_input_parameters_deadline_and_url(gateway: RunningGateway) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = await gateway.submit(
        content=b"\x01\x02",
        params={"deadline_seconds": "0000000030", "parameters": '{"top": 3}'},
        headers={**OCTETS, "traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    )
    job_id = answer.json()["id"]
    assert answer.json()["trace_id"] == trace
    ((queue, message),) = gateway.queues.sent
    assert queue == "noop"
    assert message.message_id == message.correlation_id == job_id
    assert message.content_type == "application/json"
    assert message.time_to_live is not None
    assert message.time_to_live.total_seconds() == 30
    assert message.properties == {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    request = gateway.queues.request()
    assert request.input == InlineBytes("application/octet-stream", b"\x01\x02")
    assert request.parameters == {"top": 3}
    assert (request.deadline - request.created_at).total_seconds() == 30
    assert request.reply_url is not None
    address = f"http://gateway.test/v1/jobs/{job_id}/reply?queue=noop&expires="
    assert request.reply_url.startswith(address)


async def test_reply_token_is_shown_nowhere(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    (run,) = gateway.durable.runs.values()
    assert "token" not in "".join(run.contexts)
    assert "token" not in (await gateway.http.get(f"/v1/jobs/{job_id}")).text


async def test_large_input_is_stored(gateway: RunningGateway) -> None:
    data = b"z" * 64 * 1024 + b"!"
    job_id = await gateway.accept(data)
    digest = hashlib.sha256(data).hexdigest()
    assert gateway.queues.request().input == PayloadRef(
        "application/octet-stream", f"inputs/{job_id}", len(data), digest
    )
    assert gateway.payloads.blobs == {f"inputs/{job_id}": ("application/octet-stream", data)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"text": "hé"}, InlineBytes("text/plain", "hé".encode())),
        ({"json": {"a": [1, None]}}, InlineJson({"a": [1, None]})),
        ({"json": None}, InlineJson(None)),
        (
            {"base64": base64.b64encode(b"\0\1").decode()},
            InlineBytes("application/octet-stream", b"\0\1"),
        ),
        (
            {"base64": base64.b64encode(b"text").decode(), "media_type": "Text/Plain; x=1"},
            InlineBytes("text/plain", b"text"),
        ),
        (
            {"base64": base64.b64encode(b"[1]").decode(), "media_type": "application/json"},
            InlineJson([1]),
        ),
    ],
)
async def test_base64_text_and_json_are_decoded(
    gateway: RunningGateway, given: dict[str, Any], expected: object
) -> None:
    answer = await gateway.submit(
        json={"input": given, "parameters": {"k": 1}, "deadline_seconds": 9, "webhook": None}
    )
    assert answer.status_code == 202, answer.text
    request = gateway.queues.request()
    assert request.input == expected
    assert request.parameters == {"k": 1}
    assert (request.deadline - request.created_at).total_seconds() == 9


async def test_json_like_an_sdk_object_stays_unchanged(gateway: RunningGateway) -> None:
    # The Durable SDK turns objects in this form into instances of classes.
    trap = {"__class__": "Popen", "__module__": "subprocess", "__data__": "id"}
    answer = await gateway.submit(json={"input": {"json": trap}, "parameters": trap})
    assert answer.status_code == 202
    assert gateway.queues.request().input == InlineJson(trap)
    assert (await gateway.reply(result={"json": trap})).status_code == 202
    assert (await gateway.job(answer.json()["id"]))["result"] == trap


async def test_form_with_one_file_is_accepted(gateway: RunningGateway) -> None:
    answer = await gateway.submit(
        files={"file": ("a.txt", b"words", "text/plain")},
        data={"deadline_seconds": "7", "parameters": '{"a": true}'},
    )
    assert answer.status_code == 202, answer.text
    request = gateway.queues.request()
    assert request.input == InlineBytes("text/plain", b"words")
    assert request.parameters == {"a": True}
    assert (request.deadline - request.created_at).total_seconds() == 7


async def test_missing_content_type_is_detected(gateway: RunningGateway) -> None:
    jpeg = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x20\x03" + b"\0" * 20
    answer = await gateway.submit("classifier", content=jpeg)
    assert answer.status_code == 202, answer.text
    assert gateway.queues.request().input == InlineBytes("image/jpeg", jpeg)


async def test_request_is_refused_while_durable_is_down(gateway: RunningGateway) -> None:
    gateway.durable.is_down = True
    answer = await gateway.http.post("/v1/models/noop/jobs", content=b"x", headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "2"
    assert "switched off" not in answer.text
    assert not gateway.durable.runs


async def test_large_input_is_refused_while_blobs_are_down(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    answer = await gateway.http.post("/v1/models/noop/jobs", content=b"x" * 70_000, headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert not gateway.durable.runs


async def test_message_is_sent_when_the_queue_is_back(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    job_id = await gateway.accept(deadline_seconds=600)
    await gateway.durable.advance(10)
    assert (await gateway.job(job_id))["status"] == "queued"
    gateway.queues.is_down = False
    await gateway.durable.advance(1)
    assert gateway.queues.request().job_id == job_id
    assert (await gateway.reply()).status_code == 202
    assert (await gateway.job(job_id))["status"] == "succeeded"


async def test_job_fails_if_it_is_not_sent_for_two_minutes(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    job_id = await gateway.accept(deadline_seconds=3600)
    await gateway.durable.advance(120)
    job = await gateway.job(job_id)
    assert job["status"] == "failed"
    assert job["error"]["code"] == "unavailable"
    assert job["error"]["retryable"] is True


async def test_job_expires_if_it_is_not_sent_in_time(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    job_id = await gateway.accept(deadline_seconds=5)
    await gateway.durable.advance(5)
    assert (await gateway.job(job_id))["status"] == "expired"
    gateway.queues.is_down = False
    await gateway.durable.advance(60)
    assert not gateway.queues.sent


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
