"""Test the proxy that emulates a network: its delays, its limits and its disconnections."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from lab.benchmarks.proxy import DelayProxy

ROUND_TRIP_SECONDS = 0.04
# A timer of the event loop may fire early by the resolution of the clock.
RESOLUTION_SECONDS = 0.001
LIMIT_SECONDS = 10


class EchoServer:
    """A server that sends all bytes back, and records when bytes arrive.

    When a connection ends, the server sets the event `ended`.
    """

    def __init__(self) -> None:
        self.arrived_at: list[float] = []
        self.ended = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        while data := await reader.read(65536):
            self.arrived_at.append(asyncio.get_running_loop().time())
            writer.write(data)
        writer.close()
        self.ended.set()


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def echo() -> EchoServer:
    return EchoServer()


@pytest.fixture
async def proxy(echo: EchoServer) -> AsyncIterator[DelayProxy]:
    """Yield a proxy to an echo server. The proxy is not started."""
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    made = DelayProxy(server.sockets[0].getsockname()[1], ROUND_TRIP_SECONDS)
    yield made
    await made.stop()
    server.close()


@pytest.fixture
async def connect(proxy: DelayProxy) -> Connect:
    """Start the proxy, and return a function that connects to the echo server through it."""
    port = await proxy.start()
    return lambda: asyncio.open_connection("127.0.0.1", port)


async def test_each_direction_has_half_the_delay(echo: EchoServer, connect: Connect) -> None:
    reader, writer = await connect()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LIMIT_SECONDS):
        writer.write(b"first")  # includes the time of the handshake
        await reader.readexactly(5)
        sent_at = loop.time()
        writer.write(b"second")
        await reader.readexactly(6)
    half = ROUND_TRIP_SECONDS / 2 - RESOLUTION_SECONDS
    arrived_at = echo.arrived_at[-1]
    assert arrived_at - sent_at >= half
    assert loop.time() - arrived_at >= half
    writer.close()


async def test_first_request_takes_another_round_trip(echo: EchoServer, connect: Connect) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    reader, writer = await connect()
    async with asyncio.timeout(LIMIT_SECONDS):
        writer.write(b"first")
        await reader.readexactly(5)
    assert echo.arrived_at[0] - begin >= ROUND_TRIP_SECONDS * 1.5 - 2 * RESOLUTION_SECONDS
    writer.close()


async def test_bytes_pass_unchanged_and_in_order(connect: Connect) -> None:
    content = random.Random(1).randbytes(3_000_000)
    reader, writer = await connect()

    async def write() -> None:
        for begin in range(0, len(content), 70_001):
            writer.write(content[begin : begin + 70_001])
            await writer.drain()
        writer.write_eof()

    async with asyncio.timeout(LIMIT_SECONDS):
        received, _ = await asyncio.gather(reader.read(-1), write())
    assert received == content
    writer.close()


async def test_rate_is_limited(proxy: DelayProxy, connect: Connect) -> None:
    proxy.set_link(0.0, bytes_per_second=100_000)
    content = random.Random(1).randbytes(40_000)
    reader, writer = await connect()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    writer.write(content)
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await reader.readexactly(len(content)) == content
    # The proxy forwards the last part, which takes a tenth of a second, before the pause for it.
    assert loop.time() - begin >= 0.3 - RESOLUTION_SECONDS
    writer.close()


async def test_removed_limit_frees_open_connection(proxy: DelayProxy, connect: Connect) -> None:
    reader, writer = await connect()
    proxy.set_link(0.0, bytes_per_second=10)
    writer.write(b"a")
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await reader.readexactly(1) == b"a"
        proxy.set_link(0.0)
        writer.write(bytes(1_000_000))
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
    writer.close()


async def test_client_disconnect_closes_server(echo: EchoServer, connect: Connect) -> None:
    _, writer = await connect()
    writer.write(b"last")
    writer.close()
    async with asyncio.timeout(LIMIT_SECONDS):
        await echo.ended.wait()
    assert echo.arrived_at


async def test_server_disconnect_closes_client(echo: EchoServer, connect: Connect) -> None:
    reader, writer = await connect()
    async with asyncio.timeout(LIMIT_SECONDS):
        writer.write(b"first")
        await reader.readexactly(5)
        echo.writers[0].transport.abort()
        # The proxy passes on either the end of the stream or the reset.
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_stop_closes_connections(
    proxy: DelayProxy, echo: EchoServer, connect: Connect
) -> None:
    reader, writer = await connect()
    async with asyncio.timeout(LIMIT_SECONDS):
        writer.write(b"first")
        await reader.readexactly(5)
        await proxy.stop()
        assert await reader.read() == b""
        await echo.ended.wait()
    writer.close()


async def test_missing_server_disconnects_client() -> None:
    free = await asyncio.start_server(EchoServer().serve, "127.0.0.1", 0)
    target = free.sockets[0].getsockname()[1]
    free.close()
    await free.wait_closed()
    proxy = DelayProxy(target, ROUND_TRIP_SECONDS)
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await reader.read() == b""
    writer.close()
    await proxy.stop()
