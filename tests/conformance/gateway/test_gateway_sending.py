"""Test the delivery of webhooks, including to receivers with invalid, endless or no responses."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import pytest

from contract.guard import AddressGuard, Resolver
from gateway.errors import WebhookUndelivered
from gateway.webhooks.sender import WebhookResponse, WebhookSender

PATIENCE_SECONDS: Final = 0.4
BODY: Final = b'{"id": 1}'

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def receiving(speak: Speak) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError):
                await speak(reader, writer)
                await writer.drain()
            writer.close()
        finally:
            if not writer.is_closing():
                writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the next iteration of the loop


async def post(speak: Speak, allow: str = "127.0.0.1") -> WebhookResponse:
    async with receiving(speak) as url:
        sender = WebhookSender(AddressGuard(allow), Resolver())
        return await sender.post(url, {"webhook-id": "job_1"}, BODY, "tenant a", PATIENCE_SECONDS)


async def failure(speak: Speak) -> str:
    begun_at = time.monotonic()
    with pytest.raises(WebhookUndelivered) as caught:
        await post(speak)
    # Without its time limit, an attempt to a silent receiver would never end.
    assert time.monotonic() - begun_at < PATIENCE_SECONDS + 30
    return caught.value.reason


def saying(data: bytes) -> Speak:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(data)

    return speak


async def test_receiver_gets_one_complete_request() -> None:
    heard: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(BODY))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    assert await post(speak) == WebhookResponse(204, None)
    (request,) = heard
    assert request.startswith(b"POST /hook HTTP/1.1\r\n")
    assert b"webhook-id: job_1\r\n" in request
    assert b"Content-Length: 9\r\n" in request


async def test_redirect_is_not_followed() -> None:
    called = 0

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal called
        called += 1
        await reader.readuntil(BODY)
        writer.write(b"HTTP/1.1 307 Go\r\nlocation: /hook\r\ncontent-length: 0\r\n\r\n")

    assert (await post(speak)).status == 307
    assert called == 1


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (b"120", 120.0),
        (b"99999999999999999999", 999999999.0),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        (b"Wed, 21 Oct 99999 07:28:00 GMT", None),
        (b"Wed, 21 Oct 99999999999 07:28:00 GMT", None),
        (b"-1", None),
        (b"1.5", None),
        (b"soon", None),
        (b"", None),
    ],
)
async def test_retry_after_is_converted_to_seconds(field: bytes, seconds: float | None) -> None:
    head = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: %b\r\n\r\n" % field
    assert await post(saying(head)) == WebhookResponse(503, seconds)


async def test_endless_body_is_not_read() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()

    assert await post(speak) == WebhookResponse(200, None)


async def test_endless_headers_fail() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            writer.write(b"x-%d: %b\r\n" % (number, b"y" * 1000))
            await writer.drain()

    assert await failure(speak) == "connection-failed"


async def test_endless_header_line_fails() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not writer.is_closing():
            writer.write(b"y" * 65_536)
            await writer.drain()

    assert await failure(speak) == "connection-failed"


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nx: y"])
async def test_incomplete_response_fails(begin: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(begin)
        await reader.read()

    assert await failure(speak) == "timeout"


async def test_slow_headers_fail() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(BODY)
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not reader.at_eof():
            writer.write(b"y")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.read()

    assert await failure(speak) == "timeout"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"220 mail.example ESMTP\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1, 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x00" * 100,
    ],
)
async def test_response_that_is_not_http_fails(said: bytes) -> None:
    assert await failure(saying(said)) == "connection-failed"


async def test_refused_connection_fails() -> None:
    async with receiving(saying(b"")) as url:
        pass
    with pytest.raises(WebhookUndelivered) as caught:
        await WebhookSender(AddressGuard("127.0.0.1"), Resolver()).post(
            url, {}, BODY, "tenant a", PATIENCE_SECONDS
        )
    assert caught.value.reason == "connection-failed"


async def test_receiver_without_tls_fails() -> None:
    async with receiving(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as url:
        sender = WebhookSender(AddressGuard("127.0.0.1"), Resolver())
        with pytest.raises(WebhookUndelivered) as caught:
            await sender.post(
                url.replace("http:", "https:"), {}, BODY, "tenant a", PATIENCE_SECONDS
            )
    assert caught.value.reason in {"tls-failed", "timeout", "connection-failed"}


async def test_private_address_is_not_called() -> None:
    called = False

    async def speak(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        nonlocal called
        called = True

    with pytest.raises(WebhookUndelivered) as caught:
        await post(speak, allow="")
    assert "forbidden" in caught.value.reason
    assert not called
