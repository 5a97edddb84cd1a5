"""A TCP proxy that emulates the latency and the throughput of a network.

The proxy can also pass all bytes to observers, for example to count operations.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

_HOST = "127.0.0.1"
_CHUNK_BYTES = 256 * 1024
_MAX_CHUNKS_IN_TRANSIT = 64

Observe = Callable[[bytes], None]
"""Receives each chunk of one direction of a connection, before the chunk is forwarded."""

NewObservers = Callable[[], tuple[Observe, Observe]]
"""Returns the observers of a new connection: of the client's chunks, and of the server's chunks."""


def _ignore(_: bytes) -> None:
    pass


def ignore_both() -> tuple[Observe, Observe]:
    """Return observers that do nothing."""
    return _ignore, _ignore


class DelayProxy:
    """Forwards TCP connections to a port of this machine, with a delay in each direction.

    Each chunk of bytes is forwarded half of the round-trip time after its arrival. Chunks do not
    wait for each other, so the delay does not limit the throughput. Opening a connection takes one
    round trip, as the TCP handshake does. `set_link` changes the delay, and can limit the
    throughput.
    """

    def __init__(
        self,
        target_port: int,
        round_trip_seconds: float,
        new_observers: NewObservers = ignore_both,
    ) -> None:
        self._target_port = target_port
        self._new_observers = new_observers
        self._half_seconds = round_trip_seconds / 2
        self._bytes_per_second: float | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def set_link(self, round_trip_seconds: float, bytes_per_second: float | None = None) -> None:
        """Change the delay, and the throughput of each direction, of new and open connections."""
        self._half_seconds = round_trip_seconds / 2
        self._bytes_per_second = bytes_per_second

    async def start(self, port: int = 0) -> int:
        """Listen on a port, and return the port number. If `port` is 0, choose a free port."""
        self._server = await asyncio.start_server(self._accept, _HOST, port, limit=_CHUNK_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        # asyncio reports a cancelled handler as an error, so suppress the cancellation.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)
        self._connections.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(2 * self._half_seconds)
            target_reader, target_writer = await asyncio.open_connection(
                _HOST, self._target_port, limit=_CHUNK_BYTES
            )
            try:
                from_client, from_server = self._new_observers()
                await _run_until_first_error(
                    self._forward(reader, target_writer, from_client),
                    self._forward(target_reader, writer, from_server),
                )
            finally:
                target_writer.close()
        finally:
            writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observe: Observe
    ) -> None:
        """Forward the bytes of one direction after the delay, until the sender disconnects.

        `observe` is called with each chunk of bytes when it arrives.
        """
        # The sender must wait if the receiver or a limited throughput is slower.
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_CHUNKS_IN_TRANSIT)
        await _run_until_first_error(
            self._receive(reader, chunks, observe), self._send(chunks, writer)
        )

    async def _receive(
        self,
        reader: asyncio.StreamReader,
        chunks: "asyncio.Queue[tuple[float, bytes]]",
        observe: Observe,
    ) -> None:
        loop = asyncio.get_running_loop()
        chunk = b"begin"
        while chunk:
            chunk = await reader.read(_CHUNK_BYTES)
            observe(chunk)
            await chunks.put((loop.time() + self._half_seconds, chunk))

    async def _send(
        self, chunks: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await chunks.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if not chunk:
                writer.write_eof()
                return
            for part in self._parts_of(chunk):
                writer.write(part)
                await writer.drain()
                if self._bytes_per_second is not None:
                    await asyncio.sleep(len(part) / self._bytes_per_second)

    def _parts_of(self, chunk: bytes) -> Iterator[bytes]:
        """Split a chunk into parts so small that sending each part takes at most 0.1 s.

        If the throughput is not limited, yield the whole chunk.
        """
        begin = 0
        while begin < len(chunk):
            limit = self._bytes_per_second
            size = len(chunk) if limit is None else max(1, int(limit / 10))
            yield chunk[begin : begin + size]
            begin += size


async def _run_until_first_error(*work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently. If one fails, cancel the others and raise its error."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def run_proxies(
    target_ports: Sequence[int],
    round_trip_seconds: float,
    new_observers: Sequence[NewObservers] = (),
) -> Iterator[list[int]]:
    """Run a proxy for each target port during the `with` block.

    One new thread runs all proxies. Yield the ports on which the proxies listen.

    Args:
        target_ports: The ports to which the proxies forward connections.
        round_trip_seconds: The time that the proxies add to each round trip.
        new_observers: For each target port, a function that creates the observers of a new
            connection. The observers get the bytes of the connection. If this sequence is empty,
            the connections have no observers.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxies")
    thread.start()
    proxies = [
        DelayProxy(port, round_trip_seconds, new)
        for port, new in zip(
            target_ports, new_observers or [ignore_both] * len(target_ports), strict=True
        )
    ]
    try:
        yield [asyncio.run_coroutine_threadsafe(proxy.start(), loop).result() for proxy in proxies]
    finally:
        for proxy in proxies:
            asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
