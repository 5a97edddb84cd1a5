"""Idempotency-Key: one job for all requests under one key."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway.errors import Unavailable
from gateway.storage.housekeeping import purge
from gateway.submission import idempotency as claims
from tests.unit.gateway.conftest import World

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

LARGE = b"x" * 30_000


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.05)


async def submit(
    world: World, data: bytes = b"x", key: str = "k", prefer: str = "respond-async", **query: Any
) -> httpx.Response:
    return await world.http.post(
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
async def test_a_repeat_gets_the_same_job(world: World, data: bytes) -> None:
    first = await submit(world, data)
    again = await submit(world, data, '"k"')
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(world.queues.sent) == len(world.durable.runs) == 1


async def test_a_repeat_after_the_end_gets_the_result(world: World) -> None:
    await submit(world)
    await world.reply()
    again = await submit(world)
    assert (again.status_code, again.json()["status"]) == (200, "succeeded")
    assert len(world.durable.runs) == 1


async def test_a_repeat_waits_as_it_is_asked_to(world: World) -> None:
    await submit(world)
    waiting = asyncio.create_task(submit(world, prefer="wait=100"))
    await asyncio.sleep(0)
    await world.reply()
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=100"


@pytest.mark.parametrize(
    "other", [{"data": b"y"}, {"deadline_seconds": "30"}, {"parameters": '{"a":1}'}]
)
async def test_another_request_under_the_key_is_refused(
    world: World, other: dict[str, Any]
) -> None:
    await submit(world)
    answer = await submit(world, **other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")
    assert len(world.durable.runs) == 1


async def test_what_is_no_key_is_refused(world: World) -> None:
    answer = await submit(world, key="a b")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert not world.payloads.blobs


async def test_a_refused_request_claims_nothing(world: World) -> None:
    assert (await submit(world, b"")).status_code == 422
    assert not world.payloads.blobs
    assert (await submit(world)).status_code == 202


@pytest.mark.parametrize("data", [b"x", LARGE])
async def test_simultaneous_first_requests_make_one_job(world: World, data: bytes) -> None:
    answers = await asyncio.gather(*(submit(world, data) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(world.durable.runs) == len(world.queues.sent) == 1
    inputs = [name for name in world.payloads.blobs if name.startswith("inputs/")]
    assert len(inputs) == (1 if data is LARGE else 0)


@pytest.mark.usefixtures("short_watch")
async def test_who_finds_a_claim_without_a_job_starts_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise Unavailable("durable", "died")

    with monkeypatch.context() as patch:
        patch.setattr(world.durable, "start", die)
        assert (await submit(world)).status_code == 503
    (claim,) = world.payloads.blobs.values()
    starts = count_starts(world, monkeypatch)
    answers = await asyncio.gather(*(submit(world) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert job_id.encode() in claim[1]
    assert starts == [job_id]


def count_starts(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    starts: list[str] = []
    start: Any = world.durable.start

    async def counted(instance_id: str, *given: Any) -> None:
        starts.append(instance_id)
        await start(instance_id, *given)

    monkeypatch.setattr(world.durable, "start", counted)
    return starts


@pytest.mark.usefixtures("short_watch")
async def test_who_was_too_slow_to_start_does_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = count_starts(world, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(claims, "FRESH_SECONDS", -1.0)
        answer = await submit(world)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert starts == []
    assert (await submit(world)).status_code == 202
    assert len(starts) == 1


async def test_a_claim_holds_for_a_day(world: World) -> None:
    first = await submit(world)
    await world.reply()
    await world.durable.advance(24 * 3600 - 1)
    assert (await submit(world)).json()["id"] == first.json()["id"]
    await world.durable.advance(1)
    later = await submit(world, b"another request")
    assert later.status_code == 202
    assert later.json()["id"] != first.json()["id"]


async def test_housekeeping_deletes_claims_after_a_day(world: World) -> None:
    await submit(world, key="old")
    await world.durable.advance(24 * 3600)
    await submit(world, key="new")
    await world.durable.advance(1)
    await purge(world.durable, world.services)
    assert len([name for name in world.payloads.blobs if name.startswith("claims/")]) == 1


async def test_a_damaged_claim_counts_as_none(world: World) -> None:
    await submit(world)
    (name,) = world.payloads.blobs
    world.blobs.put(name, b"{")
    assert (await submit(world)).status_code == 202


async def test_the_storage_is_down(world: World) -> None:
    world.payloads.is_down = True
    assert (await submit(world)).status_code == 503
    assert not world.durable.runs


def test_a_claim_is_over_before_its_job_is_forgotten(world: World) -> None:
    assert world.services.claim_lifetime == timedelta(hours=24)
