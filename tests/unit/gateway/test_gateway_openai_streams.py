"""Test streams of the OpenAI API in memory, with the unmodified package `openai`."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk

from contract.streams import StreamEvent
from gateway.http.openai import streams
from tests.unit.gateway.conftest import (
    RunningGateway,
    error_body,
    open_gateway,
    write_catalogue,
)
from tests.unit.gateway.openai_client import answered, client_of, log_of
from tests.unit.gateway.web_calls import scope_of

CATALOGUE = """
[talker]
implementation = "worker.models.noop"
description = "Talks."
media_types = ["application/json"]
openai = ["chat.completions"]
"""
MESSAGES: Any = [{"role": "user", "content": "hello"}]


def chunk(content: str, finish_reason: str | None = None) -> dict[str, Any]:
    """Return a chunk of an engine."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "talker"}
    return {**frame, "choices": [choice]}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    path = write_catalogue(tmp_path, CATALOGUE)
    async with open_gateway(catalogue_path=path, max_tenant_streams=1) as opened:
        yield opened


@pytest.fixture
def client(gateway: RunningGateway) -> AsyncOpenAI:
    return client_of(gateway)


async def run(
    gateway: RunningGateway, client: AsyncOpenAI, *events: StreamEvent, **outcome: Any
) -> list[ChatCompletionChunk]:
    """Return the chunks of a stream whose job has this log and this outcome."""

    async def ask() -> list[ChatCompletionChunk]:
        asked: AsyncStream[ChatCompletionChunk] = await client.chat.completions.create(
            model="talker", messages=MESSAGES, stream=True
        )
        return [each async for each in asked]

    found = await answered(gateway, ask(), events, **outcome)
    request = gateway.queues.request()
    assert (request.stream, request.operation) == (True, "chat.completions")
    return found


def texts(chunks: list[ChatCompletionChunk]) -> list[str | None]:
    return [each.choices[0].delta.content for each in chunks]


TEXT = {"result": {"media_type": "text/plain", "base64": "aGVsbG8="}}


class TestStream:
    async def test_chunks_of_an_engine_pass(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = log_of(chunk("a"), chunk("b", "stop"))
        found = await run(gateway, client, *events, result={"json": {"object": "chat.completion"}})
        assert [each.id for each in found] == ["x", "x"]
        assert texts(found) == ["a", "b"]

    async def test_result_without_chunks_is_one(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        found = await run(gateway, client, *log_of(), **TEXT)
        assert texts(found) == ["hello", None]

    async def test_whole_answer_of_an_engine_is_one(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"object": "chat.completion", "choices": [choice]}
        found = await run(gateway, client, *log_of(), result={"json": whole})
        assert texts(found) == ["hello"]
        assert found[0].choices[0].finish_reason == "stop"

    async def test_new_attempt_after_chunks_is_an_error(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = [*log_of("he"), *log_of("hello", attempt=2)]
        with pytest.raises(openai.APIError, match="the job runs again"):
            await run(gateway, client, *events, **TEXT)

    async def test_new_attempt_before_chunks_is_not(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = [*log_of(), *log_of("hel", "lo", attempt=2)]
        assert texts(await run(gateway, client, *events, **TEXT)) == ["hel", "lo", None]

    async def test_failed_job_is_an_error(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        with pytest.raises(openai.APIError, match="it did not work"):
            await run(gateway, client, *log_of("he"), error=error_body("inference-failed"))

    async def test_lost_events_are_an_error(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        delivery = {"received_ms": 1, "stream_lost": True}
        timing = {"queued_ms": 1, "inference_ms": 1, "batch_size": 1, "delivery": delivery}
        with pytest.raises(openai.APIError, match="some events could not be stored"):
            await run(gateway, client, *log_of("he"), **TEXT, timing=timing)

    async def test_second_stream_is_refused_before_it_begins(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        with (
            gateway.services.streams.opening(""),
            pytest.raises(openai.RateLimitError, match="open streams") as caught,
        ):
            await client.chat.completions.create(model="talker", messages=MESSAGES, stream=True)
        assert caught.value.response.headers["retry-after"]
        assert gateway.queues.sent == []


@pytest.mark.parametrize("is_followed", [False, True])
async def test_hang_up_cancels_unless_somebody_follows(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, *, is_followed: bool
) -> None:
    monkeypatch.setattr(streams, "HANG_UP_SECONDS", 0.05)
    body = json.dumps({"model": "talker", "messages": MESSAGES, "stream": True}).encode()
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    gone = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if pieces:
            return pieces.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    path = "/openai/v1/chat/completions"
    scope = scope_of("POST", f"http://gateway.test{path}", {}) | {"path": path, "root_path": ""}
    calling = gateway.app({**scope, "durable": gateway.durable}, receive, send)
    call = asyncio.ensure_future(calling)
    await gateway.queues.wait_for(1)
    job_id = gateway.queues.request().job_id
    record = None
    while record is None:
        await asyncio.sleep(0.01)
        record = await gateway.services.jobs.find(gateway.durable, job_id)
    following = gateway.services.streams.follow(gateway.durable, job_id, record)
    reading = asyncio.ensure_future(anext(following)) if is_followed else None
    await asyncio.sleep(0.01)
    gone.set()
    await call
    assert (await gateway.job(job_id))["status"] == "queued"
    await asyncio.gather(*streams.cancelling)
    assert (await gateway.job(job_id))["status"] == ("queued" if is_followed else "cancelled")
    if reading is not None:
        reading.cancel()
        await asyncio.wait([reading])
