"""A TCP load balancer on loopback, in front of several Functions hosts that run the gateway."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Sequence
from contextlib import suppress

_HOST = "127.0.0.1"
_CHUNK_BYTES = 64 * 1024


class Balancer:
    """Distributes TCP connections to the backends in round-robin order.

    If a backend does not accept a connection, the balancer tries the next backend. If a backend
    dies, the balancer closes the client's connection too. It does not repeat requests.
    """

    def __init__(self, port: int, backend_ports: Sequence[int]) -> None:
        self._port = port
        self._backend_ports = backend_ports
        self._first = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Start accepting connections."""
        self._server = await asyncio.start_server(self._serve, _HOST, self._port)

    def stop(self) -> None:
        """Stop accepting new connections. Open connections continue until one side closes them."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, client_reader: StreamReader, client_writer: StreamWriter) -> None:
        try:
            backend = await self._connect()
            if backend is None:
                return
            backend_reader, backend_writer = backend
            try:
                await _first_of(
                    _copy(client_reader, backend_writer), _copy(backend_reader, client_writer)
                )
            finally:
                backend_writer.close()
        finally:
            client_writer.close()

    async def _connect(self) -> tuple[StreamReader, StreamWriter] | None:
        for port in self._in_turn():
            with suppress(OSError):
                return await asyncio.open_connection(_HOST, port)
        return None

    def _in_turn(self) -> Iterator[int]:
        count = len(self._backend_ports)
        self._first = (self._first + 1) % count
        for offset in range(count):
            yield self._backend_ports[(self._first + offset) % count]


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


async def _first_of(*copies: "asyncio._CoroutineLike[None]") -> None:
    """Run all coroutines until one of them has ended, then cancel the others."""
    tasks = [asyncio.create_task(copy) for copy in copies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
