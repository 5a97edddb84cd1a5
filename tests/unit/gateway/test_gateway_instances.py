"""Test two instances of the app: a request waits in one, and the reply reaches the other."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import Unavailable
from gateway.jobs.delayed_start import START_DELAY_SECONDS
from gateway.jobs.ends import log_blob
from gateway.jobs.lifecycle import outcome_blob
from gateway.jobs.orchestrator import FIRST_CHECK
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.skipping import run

Test = Callable[[RunningGateway, RunningGateway], Awaitable[None]]


def two(test: Test) -> Callable[[], None]:
    """Make a test of two instances into one with simulated time. The first has the callers."""

    async def main() -> None:
        delay = START_DELAY_SECONDS
        async with (
            open_gateway(start_delay_seconds=delay) as first,
            open_gateway(start_delay_seconds=delay, beside=first) as second,
        ):
            await test(first, second)

    return lambda: run(main())


def kinds_of_events(gateway: RunningGateway, job_id: str) -> list[int]:
    return [event["EventType"] for event in gateway.durable.runs[job_id].history]


@two
async def test_job_starts_with_an_outcome_from_elsewhere(
    first: RunningGateway, second: RunningGateway
) -> None:
    response, request = await first.begin()
    loop = asyncio.get_running_loop()
    replied_at = loop.time()
    assert (await second.reply(request)).status_code == 202
    answer = await response
    assert loop.time() - replied_at < 0.06
    assert answer.json()["result"] == {"n": 1}
    job = first.durable.runs[request.job_id]
    assert len(job.contexts) == 1, "the orchestration needed more than one episode"
    # One blob and one line more.
    assert {outcome_blob(request.job_id), log_blob(first.clock())} <= set(first.payloads.blobs)
    assert await second.job(request.job_id) == answer.json()


@two
async def test_repeated_reply_gets_410(first: RunningGateway, second: RunningGateway) -> None:
    response, request = await first.begin()
    assert (await second.reply(request)).status_code == 202
    again = await second.reply(request, result={"json": {"n": 2}})
    assert again.status_code == 410
    assert (await response).json()["result"] == {"n": 1}
    assert (await first.reply(request, result={"json": {"n": 3}})).status_code == 410
    assert (await second.job(request.job_id))["result"] == {"n": 1}


@two
async def test_lost_line_costs_a_delay(first: RunningGateway, second: RunningGateway) -> None:
    response, request = await first.begin()

    async def lose(blob: str, data: bytes) -> int:
        raise Unavailable("blobs", "away")

    first.blobs.append = lose  # type: ignore[method-assign]  # a fault of the storage
    assert (await second.reply(request)).status_code == 202
    assert (await response).json()["result"] == {"n": 1}
    # The request started the orchestration without the outcome, and then found the blob.
    assert kinds_of_events(first, request.job_id).count(15) == 1
    assert first.durable.runs[request.job_id].status.is_final


@two
async def test_outcome_found_after_the_start_ends_the_job(
    first: RunningGateway, second: RunningGateway
) -> None:
    first.durable.may_start.clear()
    response, request = await first.begin()
    await asyncio.sleep(START_DELAY_SECONDS + 0.01)
    # The clock of the second instance is late: it expects that the first one can still wait.
    assert (await second.reply(request)).status_code == 202
    assert request.job_id not in first.durable.runs
    first.durable.may_start.set()
    assert (await response).json()["result"] == {"n": 1}
    assert kinds_of_events(first, request.job_id).count(15) == 1


@two
async def test_dead_submitter_leaves_no_job(first: RunningGateway, second: RunningGateway) -> None:
    first.durable.starts_left = 0  # the first instance dies before the start
    response, request = await first.begin()
    assert (await second.reply(request)).status_code == 202
    assert (await response).status_code == 503
    assert (await second.http.get(f"/v1/jobs/{request.job_id}")).status_code == 404
    assert (await second.reply(request)).status_code == 410


@two
async def test_reply_after_the_delay_is_an_event(
    first: RunningGateway, second: RunningGateway
) -> None:
    response, request = await first.begin()
    await asyncio.sleep(START_DELAY_SECONDS + 0.01)
    first.clock.now += 2 * (FIRST_CHECK / 10)
    assert (await second.reply(request)).status_code == 202
    assert (await response).json()["result"] == {"n": 1}
    assert kinds_of_events(first, request.job_id).count(15) == 1


@two
async def test_reply_is_wanted_elsewhere_until_the_end(
    first: RunningGateway, second: RunningGateway
) -> None:
    first.durable.may_start.clear()
    response, request = await first.begin()
    assert request.reply_url is not None
    assert (await second.http.get(request.reply_url)).status_code == 200
    await second.reply(request)
    assert (await second.http.get(request.reply_url)).status_code == 410
    first.durable.may_start.set()
    await response


@pytest.mark.parametrize("start", ["", "nan", "1e999", "soon", "-5"])
def test_malformed_start_means_no_delay(start: str) -> None:
    @two
    async def test(first: RunningGateway, second: RunningGateway) -> None:
        job_id = await first.accept()
        url = first.queues.request().reply_url
        assert url is not None
        answer = await second.http.get(f"{url}&start={start}")
        assert answer.status_code == 200
        request = first.queues.request()
        assert (await second.reply(request)).status_code == 202
        assert first.durable.runs[job_id].status.is_final

    test()


@two
async def test_get_waits_for_an_end_elsewhere(
    first: RunningGateway, second: RunningGateway
) -> None:
    job_id = await first.accept()
    waiting = asyncio.create_task(
        second.http.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=30"})
    )
    await asyncio.sleep(10)
    loop = asyncio.get_running_loop()
    replied_at = loop.time()
    assert (await first.reply()).status_code == 202
    assert (await waiting).json()["status"] == "succeeded"
    assert loop.time() - replied_at < 0.06


@two
async def test_read_without_a_wait_keeps_no_end_from_others(
    first: RunningGateway, second: RunningGateway
) -> None:
    job_id = await first.accept()
    waiting = asyncio.create_task(
        second.http.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=30"})
    )
    await asyncio.sleep(5)
    loop = asyncio.get_running_loop()
    replied_at = loop.time()
    reading = asyncio.create_task(first.http.get(f"/v1/jobs/{job_id}"))
    assert (await first.reply()).status_code == 202
    assert (await waiting).json()["status"] == "succeeded"
    assert loop.time() - replied_at < 0.06
    await reading
