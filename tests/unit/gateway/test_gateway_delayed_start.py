"""Test that a busy gateway waits briefly for the outcome before it starts an orchestration."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.catalogue import DEFAULT_PATH
from contract.messages import JobRequest
from gateway.jobs.lifecycle import BUSY_WAITERS, OWN_ENDS, START_DELAY_SECONDS
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.skipping import run

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


@contextlib.contextmanager
def other_waiters(gateway: RunningGateway, count: int = BUSY_WAITERS - 1) -> Iterator[None]:
    """Make the gateway busy: `count` other requests wait for jobs during the `with` block.

    Also make the gateway believe that its own process has recorded the last outcomes.
    """
    waiters = gateway.services.waiters
    waiters.own_ends = OWN_ENDS
    with contextlib.ExitStack() as stack:
        for number in range(count):
            stack.enter_context(waiters.waiting(f"other-{number}"))
        yield


def submit(gateway: RunningGateway, **headers: str) -> "asyncio.Task[httpx.Response]":
    """Return a task that submits a job and waits until the job has ended.

    `headers` are further headers of the request.
    """
    octets = {"content-type": "application/octet-stream"}
    path = "/v1/models/noop/jobs"
    return asyncio.create_task(gateway.http.post(path, content=b"x", headers=octets | headers))


async def sent_request(gateway: RunningGateway) -> JobRequest:
    """Wait until the gateway has sent a message, and return the request in this message."""
    await gateway.queues.has_sent.wait()
    return gateway.queues.request()


def kinds_of_events(gateway: RunningGateway, job_id: str) -> list[int]:
    return [event["EventType"] for event in gateway.durable.runs[job_id].history]


def in_gateway(test: Callable[[RunningGateway], Awaitable[None]], **settings: Any) -> None:
    """Call `test` with a new gateway, on an event loop with simulated time.

    `settings` are the gateway's settings and other arguments of `open_gateway`.
    """

    async def main() -> None:
        async with open_gateway(**settings) as gateway:
            await test(gateway)

    run(main())


def test_an_orchestration_needs_only_one_episode_if_its_job_ends_during_the_start_delay() -> None:
    async def test(gateway: RunningGateway) -> None:
        with other_waiters(gateway):
            response = submit(gateway)
            request = await sent_request(gateway)
            assert not gateway.durable.runs
            assert (await gateway.reply(request)).status_code == 202
            assert (await response).json()["status"] == "succeeded"
        run = gateway.durable.runs[request.job_id]
        assert run.status.is_final
        assert len(run.contexts) == 1, "the orchestration needed more than one episode"
        job = await gateway.job(request.job_id)
        assert job == (await response).json()
        assert job["result"] == {"n": 1}

    in_gateway(test)


def test_the_orchestration_starts_after_the_start_delay_if_the_job_has_not_ended() -> None:
    async def test(gateway: RunningGateway) -> None:
        with other_waiters(gateway):
            response = submit(gateway)
            request = await sent_request(gateway)
            await asyncio.sleep(START_DELAY_SECONDS - 0.001)  # in the simulated time of the loop
            assert request.job_id not in gateway.durable.runs
            await asyncio.sleep(0.002)
            assert request.job_id in gateway.durable.runs
            # The reply of a started orchestration is an event.
            assert (await gateway.reply(request)).status_code == 202
            assert (await response).json()["status"] == "succeeded"
        assert kinds_of_events(gateway, request.job_id).count(15) == 1

    in_gateway(test)


@pytest.mark.parametrize("reason", ["few requests wait", "another instance records outcomes"])
def test_the_orchestration_starts_at_once_if_few_requests_wait_or_another_instance_records_outcomes(
    reason: str,
) -> None:
    async def test(gateway: RunningGateway) -> None:
        count = BUSY_WAITERS - (2 if reason == "few requests wait" else 1)
        with other_waiters(gateway, count):
            if reason != "few requests wait":
                gateway.services.waiters.own_ends = 0
            response = submit(gateway)
            request = await sent_request(gateway)
            await asyncio.sleep(0.001)
            assert request.job_id in gateway.durable.runs
            await gateway.reply(request)
            await response

    in_gateway(test)


def test_the_start_delay_of_the_orchestration_does_not_lengthen_the_wait_of_the_caller() -> None:
    async def test(gateway: RunningGateway) -> None:
        begun_at = asyncio.get_running_loop().time()
        with other_waiters(gateway):
            response = await submit(gateway, prefer="wait=1")
        assert response.status_code == 202
        assert asyncio.get_running_loop().time() - begun_at == pytest.approx(1.0, abs=0.01)

    in_gateway(test)


def test_the_orchestration_of_a_request_that_does_not_wait_starts_at_once() -> None:
    async def test(gateway: RunningGateway) -> None:
        begun_at = asyncio.get_running_loop().time()
        with other_waiters(gateway):
            job_id = await gateway.accept()
        assert job_id in gateway.durable.runs
        assert asyncio.get_running_loop().time() == begun_at

    in_gateway(test)


def test_the_orchestration_of_a_model_that_reports_progress_starts_at_once(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    # `noop` is the last model in the file.
    shipped = DEFAULT_PATH.read_text(encoding="utf-8")
    catalogue.write_text(f"{shipped}\nreports_progress = true\n", encoding="utf-8")

    async def test(gateway: RunningGateway) -> None:
        with other_waiters(gateway):
            response = submit(gateway)
            request = await sent_request(gateway)
            await asyncio.sleep(0.001)
            assert request.job_id in gateway.durable.runs
            await gateway.reply(request)
            await response

    in_gateway(test, catalogue_path=catalogue)


def test_a_submission_gets_status_503_if_the_job_ends_but_the_orchestration_cannot_start() -> None:
    async def test(gateway: RunningGateway) -> None:
        with other_waiters(gateway):
            response = submit(gateway, **{"idempotency-key": "one"})
            request = await sent_request(gateway)
            gateway.durable.is_down = True
            assert (await gateway.reply(request)).status_code == 202
            assert (await response).status_code == 503
            gateway.durable.is_down = False
            # The repeated request starts the same job, whose outcome is already recorded.
            again = await submit(gateway, **{"idempotency-key": "one"})
            assert again.json()["id"] == request.job_id
            assert again.json()["status"] == "succeeded"

    in_gateway(test)


def test_a_repeated_reply_during_the_start_delay_does_not_change_the_outcome() -> None:
    async def test(gateway: RunningGateway) -> None:
        with other_waiters(gateway):
            response = submit(gateway)
            request = await sent_request(gateway)
            first, second = await asyncio.gather(
                gateway.reply(request), gateway.reply(request, result={"json": {"n": 2}})
            )
            assert sorted([first.status_code, second.status_code]) == [202, 410]
            shown = (await response).json()["result"]
        assert shown == ({"n": 1} if first.status_code == 202 else {"n": 2})
        ticket = json.loads(gateway.durable.runs[request.job_id].input)
        assert ticket["outcome"]["reply"]["result"]["json"] == shown

    in_gateway(test)
