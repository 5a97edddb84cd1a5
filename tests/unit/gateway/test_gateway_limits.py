"""Test that requests beyond the limits of a tenant are refused, and lines of a batch wait."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway import housekeeping
from gateway.keys import owner_of
from gateway.shares.places import GATHER_SECONDS, PLACES
from gateway.shares.tenants import SETTINGS_BLOB
from gateway.shares.usage import USAGE
from tests.unit.gateway.api_keys import bearer, submit_as
from tests.unit.gateway.conftest import RunningGateway, open_gateway

ACME = owner_of("acme")


async def limit(gateway: RunningGateway, **fields: Any) -> None:
    await gateway.services.limits.tenants.change("acme", fields, "ops")


def refusal_of(answer: httpx.Response) -> tuple[int, str, int, float, float]:
    document = answer.json()
    return (
        answer.status_code,
        *(document[name] for name in ("code", "limit", "used", "remaining")),
    )


async def submit(gateway: RunningGateway, **headers: str) -> httpx.Response:
    return await submit_as(gateway, "a", prefer="respond-async", **headers)


async def test_200_requests_get_exactly_10_places(closed: RunningGateway) -> None:
    async with open_gateway(beside=closed, api_keys=closed.services.settings.api_keys) as other:
        await limit(closed, max_queued=10)
        both = (closed, other)
        answers = await asyncio.gather(*(submit(both[number % 2]) for number in range(200)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert len(accepted) == 10
    refused = next(answer for answer in answers if answer.status_code != 202)
    assert refusal_of(refused) == (429, "queue-limit", 10, 10, 0)
    assert int(refused.headers["retry-after"]) >= 1
    assert len({message.message_id for _, message in closed.queues.sent}) == 10


async def test_an_end_makes_a_place(closed: RunningGateway) -> None:
    await limit(closed, max_queued=1)
    job_id = (await submit(closed)).json()["id"]
    assert (await submit(closed)).status_code == 429
    closed.services.limits.record_end(job_id, ACME, "noop", 0.1)
    await asyncio.sleep(3 * GATHER_SECONDS)
    assert (await submit(closed)).status_code == 202


async def test_a_repeated_request_needs_no_place(closed: RunningGateway) -> None:
    await limit(closed, max_queued=1)
    first = await submit(closed, **{"idempotency-key": "k"})
    again = await submit(closed, **{"idempotency-key": "k"})
    assert first.json()["id"] == again.json()["id"]
    assert (await submit(closed)).status_code == 429


async def test_a_refused_request_keeps_no_place(closed: RunningGateway) -> None:
    await limit(closed, max_queued=1)
    answer = await closed.submit(
        content=b"x",
        params={"webhook_url": "https://example.com/"},
        headers={**bearer("a"), "content-type": "application/octet-stream"},
    )
    assert answer.status_code == 422
    await asyncio.sleep(3 * GATHER_SECONDS)
    assert (await submit(closed)).status_code == 202


async def test_other_tenants_have_no_limit(closed: RunningGateway) -> None:
    await limit(closed, max_queued=0)
    assert (await submit(closed)).status_code == 429
    assert (await submit_as(closed, "b", prefer="respond-async")).status_code == 202


async def test_used_up_seconds_last_to_midnight(closed: RunningGateway) -> None:
    await limit(closed, gpu_seconds_a_day=10)
    usage = closed.services.limits.usage
    usage.record(ACME, "noop", 9.5)
    assert (await submit(closed)).status_code == 202
    usage.record(ACME, "noop", 1.0)
    refused = await submit(closed)
    assert refusal_of(refused) == (429, "gpu-seconds-exhausted", 10, 10.5, 0)
    assert refused.headers["retry-after"] == str(12 * 3600)
    closed.clock.now += timedelta(hours=12)
    assert (await submit(closed)).status_code == 202


async def test_the_housekeeping_deletes_old_logs(closed: RunningGateway) -> None:
    await limit(closed, max_queued=1)
    await submit(closed)
    await closed.services.limits.usage.write()
    closed.clock.now += timedelta(days=9)
    await housekeeping.run(closed.durable, closed.services)
    kept = closed.payloads.blobs
    assert [name for name in kept if name.startswith((USAGE, PLACES))] == []
    assert SETTINGS_BLOB in kept


@pytest.mark.parametrize(("used", "allowed"), [(0.0, 2), (10.0, 0)])
async def test_lines_beyond_a_limit_wait(closed: RunningGateway, used: float, allowed: int) -> None:
    await limit(closed, gpu_seconds_a_day=10, max_queued=2)
    limits = closed.services.limits
    limits.usage.record(ACME, "noop", used)
    lines = dict.fromkeys("abc", closed.clock() + timedelta(minutes=1))
    assert await limits.take_some("acme", lines) == allowed
