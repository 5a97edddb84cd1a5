"""The unmodified package `openai` as a client of the gateway in memory."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI

from contract.streams import StreamEvent, StreamEventType, encode_event, stream_blob
from tests.unit.gateway.api_keys import KEYS
from tests.unit.gateway.conftest import RunningGateway

T = TypeVar("T")


def client_of(
    gateway: RunningGateway, name: str | None = None, *, is_strict: bool = True
) -> AsyncOpenAI:
    """Return a client that sends the key of this name. A strict one checks answers by its types."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await gateway.app({**scope, "durable": gateway.durable}, receive, send)

    return AsyncOpenAI(
        base_url=f"{gateway.http.base_url}/openai/v1",
        api_key=KEYS[name][0] if name else "unused",
        http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app)),
        max_retries=0,
        _strict_response_validation=is_strict,
    )


def log_of(*chunks: Any, attempt: int = 1) -> list[StreamEvent]:
    """Return the log of an attempt that emits these chunks."""
    begin = StreamEvent(attempt, 0, StreamEventType.ATTEMPT)
    found = enumerate(chunks, 1)
    return [begin, *(StreamEvent(attempt, n, StreamEventType.CHUNK, each) for n, each in found)]


async def answered(
    gateway: RunningGateway, call: Awaitable[T], events: Sequence[StreamEvent] = (), **outcome: Any
) -> T:
    """Return what a call returns whose job has this log and this outcome."""
    number = len(gateway.queues.sent)
    task = asyncio.ensure_future(call)
    sent = asyncio.create_task(gateway.queues.wait_for(number + 1))
    await asyncio.wait([task, sent], return_when=asyncio.FIRST_COMPLETED)
    if not sent.done():
        sent.cancel()
        return await task
    request = gateway.queues.request(number)
    if events:
        lines = b"".join(encode_event(event) + b"\n" for event in events)
        await gateway.blobs.append(stream_blob(request.job_id), lines)
    await gateway.reply(request, **outcome)
    return await task
