"""Test that all requests with the same Idempotency-Key get the same job."""

import asyncio
import math
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway import housekeeping
from gateway.submission import idempotency as claims
from tests.unit.gateway.conftest import RunningGateway

LARGE = b"x" * 70_000


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.05)


async def submit(
    gateway: RunningGateway,
    data: bytes = b"x",
    key: str = "k",
    prefer: str = "respond-async",
    **query: Any,
) -> httpx.Response:
    return await gateway.http.post(
        "/v1/models/noop/jobs",
        content=data,
        params=query,
        headers={
            "content-type": "application/octet-stream",
            "prefer": prefer,
            "idempotency-key": key,
        },
    )


@pytest.mark.parametrize("data", [b"x", LARGE])
async def test_repeat_gets_the_same_job(gateway: RunningGateway, data: bytes) -> None:
    first = await submit(gateway, data)
    again = await submit(gateway, data, '"k"', priority="normal")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(gateway.queues.sent) == len(gateway.durable.runs) == 1


async def test_repeat_gets_the_result_of_an_ended_job(gateway: RunningGateway) -> None:
    await submit(gateway)
    await gateway.reply()
    again = await submit(gateway)
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
    assert len(gateway.durable.runs) == 1


async def test_repeat_waits_for_the_result_if_preferred(gateway: RunningGateway) -> None:
    await submit(gateway)
    waiting = asyncio.create_task(submit(gateway, prefer="wait=100"))
    await asyncio.sleep(0)
    await gateway.reply()
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=100"


@pytest.mark.parametrize(
    "other",
    [
        {"data": b"y"},
        {"deadline_seconds": "30"},
        {"parameters": '{"a":1}'},
        {"label": "b"},
        {"priority": "low"},
    ],
)
async def test_different_request_is_refused(gateway: RunningGateway, other: dict[str, Any]) -> None:
    await submit(gateway)
    answer = await submit(gateway, **other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")
    assert len(gateway.durable.runs) == 1


async def test_malformed_key_is_refused(gateway: RunningGateway) -> None:
    answer = await submit(gateway, key="a b")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert not gateway.payloads.blobs


async def test_refused_request_stores_no_claim(gateway: RunningGateway) -> None:
    assert (await submit(gateway, b"")).status_code == 422
    assert not gateway.payloads.blobs
    assert (await submit(gateway)).status_code == 202


@pytest.mark.parametrize("data", [b"x", LARGE])
async def test_simultaneous_requests_create_one_job(gateway: RunningGateway, data: bytes) -> None:
    answers = await asyncio.gather(*(submit(gateway, data) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(gateway.durable.runs) == len(gateway.queues.sent) == 1
    inputs = [name for name in gateway.payloads.blobs if name.startswith("inputs/")]
    assert len(inputs) == (1 if data is LARGE else 0)


@pytest.mark.usefixtures("short_watch")
async def test_one_repeat_creates_the_job_of_a_failed_request(gateway: RunningGateway) -> None:
    gateway.durable.starts_left = 0
    assert (await submit(gateway)).status_code == 503
    gateway.durable.starts_left = math.inf
    (claim,) = (blob for name, blob in gateway.payloads.blobs.items() if name.startswith("claims/"))
    answers = await asyncio.gather(*(submit(gateway) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert job_id.encode() in claim[1]
    assert gateway.durable.started == [job_id]


@pytest.mark.usefixtures("short_watch")
async def test_slow_claim_starts_no_job(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(claims, "FRESH_SECONDS", -1.0)
        answer = await submit(gateway)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert gateway.durable.started == []
    assert (await submit(gateway)).status_code == 202
    assert len(gateway.durable.started) == 1


async def test_key_is_free_again_after_one_day(gateway: RunningGateway) -> None:
    first = await submit(gateway)
    await gateway.reply()
    await gateway.durable.advance(24 * 3600 - 1)
    assert (await submit(gateway)).json()["id"] == first.json()["id"]
    await gateway.durable.advance(1)
    later = await submit(gateway, b"another request")
    assert later.status_code == 202
    assert later.json()["id"] != first.json()["id"]


async def test_housekeeping_deletes_old_claims(gateway: RunningGateway) -> None:
    await submit(gateway, key="old")
    await gateway.durable.advance(24 * 3600)
    await submit(gateway, key="new")
    await gateway.durable.advance(1)
    await housekeeping.run(gateway.durable, gateway.services)
    assert len([name for name in gateway.payloads.blobs if name.startswith("claims/")]) == 1


async def test_unreadable_claim_is_replaced(gateway: RunningGateway) -> None:
    await submit(gateway)
    (name,) = (name for name in gateway.payloads.blobs if name.startswith("claims/"))
    gateway.blobs.put(name, b"{")
    assert (await submit(gateway)).status_code == 202


async def test_requests_are_refused_while_blobs_are_down(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    assert (await submit(gateway)).status_code == 503
    assert not gateway.durable.runs


def test_lifetime_of_a_claim_is_24_hours(gateway: RunningGateway) -> None:
    assert gateway.services.claim_lifetime == timedelta(hours=24)
