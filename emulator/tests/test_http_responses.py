"""Test how the bytes of a response reach the client, which all emulator services have in common."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from emulator.functions.asgi import Application, Listener, Receive, Scope, Send
from emulator.http_server import TRANSPORT
from emulator.program import bind

_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
_BODY = {"type": "http.response.body", "body": b"hello"}
_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.asynccontextmanager
async def connected_to(application: Application) -> AsyncIterator[socket.socket]:
    """Serve an application, and yield a connection to the server."""
    with bind("127.0.0.1", 0) as bound:
        listener = Listener(application, [bound])
        await listener.start()
        with socket.socket() as client:
            client.setblocking(False)
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(client, bound.getsockname())
                yield client
        await listener.stop()


async def ask(client: socket.socket, request: bytes = _REQUEST) -> bytes:
    """Send a request, and return the bytes that arrive first."""
    await asyncio.get_running_loop().sock_sendall(client, request)
    return await read(client)


async def read(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 65536)


async def respond_at_once(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(_HEAD)
    await send(_BODY)


async def test_head_and_body_arrive_together() -> None:
    async with connected_to(respond_at_once) as client:
        for _ in range(3):
            answer = await ask(client)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\nhello")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with connected_to(respond_at_once) as client:
        answer = await ask(client, _REQUEST * 2)
        while answer.count(b"hello") < 2:
            answer += await read(client)
        assert answer.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert answer.endswith(b"\r\n\r\nhello")


async def test_head_does_not_wait_for_a_later_body() -> None:
    has_arrived = asyncio.Event()

    async def respond_late(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(_HEAD)
        await has_arrived.wait()
        await send(_BODY)

    async with connected_to(respond_late) as client:
        answer = await ask(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        has_arrived.set()
        assert await read(client) == b"hello"


async def test_request_with_expect_is_asked_for_its_body() -> None:
    async def respond_to_body(_scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"12345"
        await send(_HEAD)
        await send(_BODY)

    head = _REQUEST.replace(b"GET", b"POST")[:-2]
    head += b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    async with connected_to(respond_to_body) as client:
        assert await ask(client, head) == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await ask(client, b"12345")
        while not answer.endswith(b"hello"):
            answer += await read(client)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_head_arrives_before_a_connection_is_closed(method: bytes) -> None:
    async def close_after_head(scope: Scope, receive: Receive, send: Send) -> None:
        await send(_HEAD)
        scope["extensions"][TRANSPORT].abort()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with connected_to(close_after_head) as client:
        answer = await ask(client, _REQUEST.replace(b"GET", method))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert await read(client) == b""
