"""Test that the balancer uses its backends in round-robin order and skips dead backends."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator

import pytest

from lab.storm.balancer import Balancer
from tests.ports import free_port


class Backend:
    """A TCP server that responds to each line with the server's name."""

    def __init__(self, name: str) -> None:
        self.name, self.port = name.encode(), free_port()
        self._writers: list[StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._writers.append(writer)
        while await reader.readline():
            writer.write(self.name + b"\n")
        writer.close()

    def die(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def backends() -> AsyncIterator[list[Backend]]:
    started = [Backend("a"), Backend("b")]
    for backend in started:
        await backend.start()
    yield started
    for backend in started:
        backend.die()


@pytest.fixture
async def port(backends: list[Backend]) -> AsyncIterator[int]:
    port = free_port()
    balancer = Balancer(port, [backend.port for backend in backends])
    await balancer.start()
    yield port
    balancer.stop()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"who\n")
    answer = await reader.read(100)
    writer.close()
    return answer.strip()


async def test_backends_take_turns(port: int) -> None:
    answers = [await ask(port) for _ in range(4)]
    assert sorted(answers) == [b"a", b"a", b"b", b"b"]


async def test_dead_backend_is_skipped(backends: list[Backend], port: int) -> None:
    backends[0].die()
    assert {await ask(port) for _ in range(4)} == {b"b"}


async def test_connection_without_backend_is_closed(backends: list[Backend], port: int) -> None:
    for backend in backends:
        backend.die()
    assert await ask(port) == b""


async def test_dying_backend_closes_its_connections(backends: list[Backend], port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"who\n")
    assert await reader.readline()
    for backend in backends:
        backend.die()
    assert await reader.read() == b""
    writer.close()
