"""Test that equal inference requests with the same Idempotency-Key get the same jobs."""

import asyncio
import math
from typing import Any

import httpx
import pytest

from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.open_inference_caller import infer, outputs, tensor


async def infer_again(gateway: RunningGateway, key: str, request: dict[str, Any]) -> httpx.Response:
    """Repeat an inference request. No worker replies, so a result is that of an earlier job."""
    return await gateway.http.post(
        "/v2/models/noop/infer", json=request, headers={"idempotency-key": key}
    )


async def test_repeat_gets_the_same_jobs(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor("a", "b", "c")]}
    outcomes = [{"result": {"json": number}} for number in range(3)]
    first = await infer(gateway, "noop", request, outcomes, {"idempotency-key": "one"})
    assert first.status_code == 200, first.text
    assert "idempotency-replayed" not in first.headers
    again = await infer_again(gateway, "one", request)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(gateway.durable.runs) == 3


@pytest.mark.parametrize(
    "request_body",
    [
        {"inputs": [tensor("a", "c")]},
        {"inputs": [tensor("a")]},
        {"inputs": [tensor("a", "b", "c")]},
        {"inputs": [tensor("a", "b")], "parameters": {"top": 3}},
        {"inputs": [tensor("a", "b")], "parameters": {"priority": "low"}},
    ],
)
async def test_different_request_starts_no_job(
    gateway: RunningGateway, request_body: dict[str, Any]
) -> None:
    outcomes = [{"result": {"json": number}} for number in range(2)]
    key = {"idempotency-key": "one"}
    await infer(gateway, "noop", {"inputs": [tensor("a", "b")]}, outcomes, key)
    refused = await infer_again(gateway, "one", request_body)
    assert (refused.status_code, list(refused.json())) == (422, ["error"])
    assert "Idempotency-Key" in refused.json()["error"]
    assert len(gateway.durable.runs) == 2


async def test_v1_and_v2_share_the_keys(gateway: RunningGateway) -> None:
    headers = {"idempotency-key": "one", "content-type": "text/plain"}
    answer = await gateway.submit(content=b"a", headers=headers)
    assert answer.status_code == 202
    refused = await infer_again(gateway, "one", {"inputs": [tensor("a")]})
    assert refused.status_code == 422
    assert len(gateway.durable.runs) == 1


async def test_simultaneous_requests_create_jobs_once(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor("a", "b")]}
    callers = [asyncio.create_task(infer_again(gateway, "one", request)) for _ in range(16)]
    await gateway.queues.wait_for(2)
    for number in range(2):
        await gateway.reply(gateway.queues.request(number), result={"json": number})
    answers = await asyncio.gather(*callers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(gateway.durable.runs) == 2


async def test_repeat_starts_the_jobs_that_were_not_started(gateway: RunningGateway) -> None:
    gateway.durable.starts_left = 1
    request = {"inputs": [tensor("a", "b")]}
    headers = {"idempotency-key": "one", "prefer": "wait=0"}
    answer = await gateway.http.post("/v2/models/noop/infer", json=request, headers=headers)
    assert answer.status_code == 503
    assert len(gateway.durable.runs) == 1
    gateway.durable.starts_left = math.inf
    outcomes = [{"result": {"json": number}} for number in range(2)]
    answer = await infer(gateway, "noop", request, outcomes, {"idempotency-key": "one"})
    assert outputs(answer)["result"]["data"] == ["0", "1"]
    assert len(gateway.durable.runs) == 2
