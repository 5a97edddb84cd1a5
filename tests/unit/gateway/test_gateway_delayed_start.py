"""Test the start delay: a gateway starts an orchestration only after a short wait for the outcome.

If the job ends during this delay, the orchestration gets the outcome as a part of its input.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from contract.messages import reply_from_json
from gateway.durable import RuntimeStatus
from gateway.jobs.delayed_start import LONGEST_START_SECONDS, START_DELAY_SECONDS
from gateway.jobs.lifecycle import outcome_blob
from gateway.jobs.model import JobOutcome
from gateway.jobs.orchestrator import end_at_start
from gateway.web_extension import AppResponse
from tests.unit.gateway.conftest import (
    RunningGateway,
    open_gateway,
    reply_body,
    write_progress_catalogue,
)
from tests.unit.gateway.memory import run_orchestrator
from tests.unit.gateway.skipping import run
from tests.unit.gateway.web_calls import scope_of

FAILURE = {"code": "inference-failed", "message": "no", "stage": "run", "retryable": False}


def kinds_of_events(gateway: RunningGateway, job_id: str) -> list[int]:
    return [event["EventType"] for event in gateway.durable.runs[job_id].history]


async def count_ended_jobs(gateway: RunningGateway) -> float:
    """Return the number of ended jobs in the gateway's metrics."""
    lines = (await gateway.http.get("/metrics")).text.splitlines()
    counts = [line for line in lines if line.startswith("loosely_gateway_jobs_ended_total{")]
    return sum(float(line.split()[-1]) for line in counts)


def in_gateway(test: Callable[[RunningGateway], Awaitable[None]], **settings: Any) -> None:
    """Call `test` with a new gateway, on an event loop with simulated time."""

    async def main() -> None:
        async with open_gateway(start_delay_seconds=START_DELAY_SECONDS, **settings) as gateway:
            await test(gateway)

    run(main())


def delayed(test: Callable[[RunningGateway], Awaitable[None]]) -> Callable[[], None]:
    """Make an asynchronous test, whose gateway delays starts, into one with simulated time."""
    return lambda: in_gateway(test)


@delayed
async def test_ended_job_needs_one_episode_and_no_blob(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    assert not gateway.durable.runs
    assert (await gateway.reply(request)).status_code == 202
    assert (await response).json()["status"] == "succeeded"
    run = gateway.durable.runs[request.job_id]
    assert run.status.is_final
    assert len(run.contexts) == 1, "the orchestration needed more than one episode"
    job = await gateway.job(request.job_id)
    assert job == (await response).json()
    assert job["result"] == {"n": 1}
    assert outcome_blob(request.job_id) not in gateway.payloads.blobs
    ticket = json.loads(run.input)
    assert ticket["outcome"]["reply"]["result"]["json"] == {"n": 1}
    timeline = await gateway.http.get(f"/v1/jobs/{request.job_id}/timeline")
    assert timeline.json()["status"] == "succeeded"


@delayed
async def test_reply_is_accepted_after_the_start(gateway: RunningGateway) -> None:
    gateway.durable.may_start.clear()
    response, request = await gateway.begin()
    reply = asyncio.create_task(gateway.reply(request))
    await asyncio.sleep(LONGEST_START_SECONDS - 0.001)
    assert not reply.done()
    gateway.durable.may_start.set()
    assert (await reply).status_code == 202
    assert (await response).json()["status"] == "succeeded"
    assert outcome_blob(request.job_id) not in gateway.payloads.blobs


@delayed
async def test_slow_start_records_the_outcome_in_a_blob(gateway: RunningGateway) -> None:
    gateway.durable.may_start.clear()
    response, request = await gateway.begin()
    assert (await gateway.reply(request)).status_code == 202
    assert outcome_blob(request.job_id) in gateway.payloads.blobs
    gateway.durable.may_start.set()
    assert (await response).json()["status"] == "succeeded"


@delayed
async def test_job_is_started_after_its_caller_hung_up(gateway: RunningGateway) -> None:
    messages = iter([{"type": "http.request", "body": b"x"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = {"host": "gateway.test", "content-type": "application/octet-stream"}
    scope = scope_of("POST", "/v1/models/noop/jobs", headers)
    calling = asyncio.create_task(AppResponse(gateway.app, gateway.durable)(scope, receive, send))
    await gateway.queues.wait_for(1)
    assert (await gateway.reply()).status_code == 202
    await calling
    assert sent[0]["status"] == 200
    assert (await gateway.job(gateway.queues.request().job_id))["result"] == {"n": 1}


@delayed
async def test_start_is_not_delayed_for_a_caller_who_hung_up(gateway: RunningGateway) -> None:
    messages = iter([{"type": "http.request", "body": b"x"}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    async def send(_message: Message) -> None:
        """Send nothing: the caller is gone."""

    headers = {"host": "gateway.test", "content-type": "application/octet-stream"}
    scope = scope_of("POST", "/v1/models/noop/jobs", headers)
    begun_at = asyncio.get_running_loop().time()
    await AppResponse(gateway.app, gateway.durable)(scope, receive, send)
    assert asyncio.get_running_loop().time() - begun_at < 1
    request = gateway.queues.request()
    assert (await gateway.job(request.job_id))["status"] == "queued"
    assert (await gateway.reply(request)).status_code == 202
    assert (await gateway.job(request.job_id))["result"] == {"n": 1}


@pytest.mark.parametrize("reply", [{}, {"error": FAILURE}], ids=["result", "error"])
def test_first_episode_ends_as_the_sdk_ends_it(reply: dict[str, Any]) -> None:
    async def test(gateway: RunningGateway) -> None:
        response, request = await gateway.begin()
        await gateway.reply(request, **reply)
        await response
        (context,) = gateway.durable.runs[request.job_id].contexts
        assert end_at_start(context) == run_orchestrator(context)

    in_gateway(test)


@delayed
async def test_sdk_runs_a_job_with_a_webhook(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    await gateway.reply(request)
    await response
    context = json.loads(gateway.durable.runs[request.job_id].contexts[0])
    ticket = json.loads(json.loads(context["input"]))
    context["input"] = json.dumps(json.dumps(ticket | {"webhook_url": "https://a.test/"}))
    assert end_at_start(json.dumps(context)) is None


@pytest.mark.parametrize("status", [RuntimeStatus.PENDING, RuntimeStatus.COMPLETED])
def test_second_reply_changes_nothing(status: RuntimeStatus) -> None:
    async def test(gateway: RunningGateway) -> None:
        response, request = await gateway.begin()
        assert (await gateway.reply(request)).status_code == 202
        await response
        gateway.durable.runs[request.job_id].status = status
        again = await gateway.reply(request, result={"json": {"n": 2}})
        assert again.status_code == 410
        assert (await gateway.job(request.job_id))["result"] == {"n": 1}
        assert await count_ended_jobs(gateway) == 1

    in_gateway(test)


@delayed
async def test_reply_repeated_after_503_is_counted_once(gateway: RunningGateway) -> None:
    gateway.durable.may_start.clear()
    response, request = await gateway.begin()
    gateway.payloads.is_down = True
    assert (await gateway.reply(request)).status_code == 503
    gateway.durable.may_start.set()
    assert (await response).json()["status"] == "succeeded"
    gateway.payloads.is_down = False
    for _ in range(2):
        assert (await gateway.reply(request)).status_code == 410
    assert await count_ended_jobs(gateway) == 1


@delayed
async def test_reply_stored_by_its_repetition_is_accepted(gateway: RunningGateway) -> None:
    gateway.durable.may_start.clear()
    response, request = await gateway.begin()
    reply = asyncio.create_task(gateway.reply(request))
    await asyncio.sleep(0.001)
    # A second reply records the outcome of the first one, and may do so earlier.
    received = reply_from_json(reply_body(request.job_id, result={"json": {"n": 1}}))
    outcome = JobOutcome.replied(received, gateway.clock())
    await gateway.services.outcomes.record(request.job_id, outcome, None)
    assert (await reply).status_code == 202
    assert await count_ended_jobs(gateway) == 1
    gateway.durable.may_start.set()
    await response


@delayed
async def test_one_of_two_identical_replies_is_accepted(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    gateway.durable.is_down = True
    replies = await asyncio.gather(gateway.reply(request), gateway.reply(request))
    assert sorted(each.status_code for each in replies) == [202, 410]
    assert (await response).status_code == 503
    assert await count_ended_jobs(gateway) == 1


@pytest.mark.parametrize("status", [RuntimeStatus.RUNNING, RuntimeStatus.TERMINATED])
def test_outcome_in_the_ticket_beats_a_blob(status: RuntimeStatus) -> None:
    async def test(gateway: RunningGateway) -> None:
        response, request = await gateway.begin()
        await gateway.reply(request)
        await response
        # Another instance of the app has recorded a second reply. The orchestration has no output,
        # because its first episode has not ended or because it was terminated.
        outcome = JobOutcome.cancelled(gateway.clock())
        await gateway.services.outcomes.record(request.job_id, outcome, None)
        run = gateway.durable.runs[request.job_id]
        run.status, run.output = status, None
        assert (await gateway.job(request.job_id))["result"] == {"n": 1}
        (listed,) = (await gateway.http.get("/v1/jobs")).json()["jobs"]
        assert listed["status"] == "succeeded"

    in_gateway(test)


@delayed
async def test_unended_job_starts_after_the_delay(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    await asyncio.sleep(START_DELAY_SECONDS - 0.001)  # in the simulated time of the loop
    assert request.job_id not in gateway.durable.runs
    await asyncio.sleep(0.002)
    assert request.job_id in gateway.durable.runs
    gateway.clock.now += timedelta(seconds=START_DELAY_SECONDS)
    # The reply of a started orchestration is an event.
    assert (await gateway.reply(request)).status_code == 202
    assert (await response).json()["status"] == "succeeded"
    assert kinds_of_events(gateway, request.job_id).count(15) == 1


@delayed
async def test_delay_is_a_part_of_the_wait(gateway: RunningGateway) -> None:
    begun_at = asyncio.get_running_loop().time()
    response, _ = await gateway.begin(headers={"prefer": "wait=1"})
    assert (await response).status_code == 202
    assert asyncio.get_running_loop().time() - begun_at == pytest.approx(1.0, abs=0.01)


@delayed
async def test_job_without_a_wait_starts_at_once(gateway: RunningGateway) -> None:
    begun_at = asyncio.get_running_loop().time()
    job_id = await gateway.accept()
    assert job_id in gateway.durable.runs
    assert asyncio.get_running_loop().time() == begun_at


def test_job_with_progress_starts_at_once(tmp_path: Path) -> None:
    async def test(gateway: RunningGateway) -> None:
        response, request = await gateway.begin()
        await asyncio.sleep(0.001)
        assert request.job_id in gateway.durable.runs
        await gateway.reply(request)
        await response

    in_gateway(test, catalogue_path=write_progress_catalogue(tmp_path))


@delayed
async def test_failed_start_gets_503(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    gateway.durable.is_down = True
    assert (await gateway.reply(request)).status_code == 202
    assert (await response).status_code == 503
    assert outcome_blob(request.job_id) in gateway.payloads.blobs


@delayed
async def test_job_with_an_idempotency_key_starts_at_once(gateway: RunningGateway) -> None:
    # Another request with the key may start the orchestration again, which replaces the ticket.
    response, request = await gateway.begin(headers={"idempotency-key": "one"})
    await asyncio.sleep(0.001)
    assert request.job_id in gateway.durable.runs
    assert (await gateway.reply(request)).status_code == 202
    assert (await response).json()["status"] == "succeeded"
    assert outcome_blob(request.job_id) in gateway.payloads.blobs


@delayed
async def test_reply_before_the_confirmation_needs_no_blob(gateway: RunningGateway) -> None:
    gateway.queues.may_confirm.clear()
    response, request = await gateway.begin()
    reply = asyncio.create_task(gateway.reply(request))
    await asyncio.sleep(0.1)
    gateway.queues.may_confirm.set()
    assert (await reply).status_code == 202
    assert (await response).json()["result"] == {"n": 1}
    assert outcome_blob(request.job_id) not in gateway.payloads.blobs
    assert await count_ended_jobs(gateway) == 1


@delayed
async def test_reply_is_wanted_until_the_job_ends(gateway: RunningGateway) -> None:
    gateway.durable.may_start.clear()
    response, request = await gateway.begin()
    assert request.reply_url is not None
    assert (await gateway.http.get(request.reply_url)).status_code == 200
    reply = asyncio.create_task(gateway.reply(request))
    await asyncio.sleep(0.001)
    assert (await gateway.http.get(request.reply_url)).status_code == 410
    gateway.durable.may_start.set()
    assert (await reply).status_code == 202
    await response


@delayed
async def test_repeated_reply_keeps_the_first_outcome(gateway: RunningGateway) -> None:
    response, request = await gateway.begin()
    first, second = await asyncio.gather(
        gateway.reply(request), gateway.reply(request, result={"json": {"n": 2}})
    )
    assert sorted([first.status_code, second.status_code]) == [202, 410]
    shown = (await response).json()["result"]
    assert shown == ({"n": 1} if first.status_code == 202 else {"n": 2})
    ticket = json.loads(gateway.durable.runs[request.job_id].input)
    assert ticket["outcome"]["reply"]["result"]["json"] == shown
