"""Test streams on both stores: our blob storage emulator, and a real redis-server."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any, Protocol

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from uuid_utils import uuid7

from contract.streams import (
    BEFORE_ALL,
    REDIS_FIELD,
    EventId,
    StreamEvent,
    StreamEventType,
    encode_event,
    stream_blob,
    stream_key,
)
from gateway.storage.blobs import Blobs, PayloadContainer
from gateway.streams.feeds import Feeds
from gateway.streams.store import BlobLogs, RedisLogs, StreamLogs
from tests.conformance.gateway.emulated_services import storage
from tests.ports import free_port

CHUNK = StreamEventType.CHUNK


class Log(Protocol):
    """A store, and the way in which a worker writes to it."""

    store: StreamLogs

    async def write(self, job_id: str, *events: StreamEvent) -> None: ...


class BlobLog:
    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.store: StreamLogs = BlobLogs(blobs)

    async def write(self, job_id: str, *events: StreamEvent) -> None:
        lines = b"".join(encode_event(event) + b"\n" for event in events)
        await self.blobs.append(stream_blob(job_id), lines)


class RedisLog:
    def __init__(self, url: str) -> None:
        self.redis: Any = Redis.from_url(url)
        self._streams = RedisLogs(url)
        self.store: StreamLogs = self._streams

    async def write(self, job_id: str, *events: StreamEvent) -> None:
        for event in events:
            fields = {REDIS_FIELD: encode_event(event)}
            await self.redis.xadd(stream_key(job_id), fields, id=event.id)

    async def close(self) -> None:
        await self.redis.aclose()
        await self._streams.close()


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    with subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


@pytest.fixture(params=["blobs", "redis"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    if request.param == "blobs":
        container = PayloadContainer(storage(request.getfixturevalue("blob_port")), "streams-test")
        yield BlobLog(Blobs(container))
        await container.close()
        return
    opened = RedisLog(f"redis://127.0.0.1:{request.getfixturevalue('redis_port')}")
    for _ in range(100):
        try:
            await opened.redis.ping()
            break
        except RedisError:
            await asyncio.sleep(0.05)
    yield opened
    await opened.close()


def chunk(attempt: int, number: int, data: Any = "x") -> StreamEvent:
    return StreamEvent(attempt, number, CHUNK, data)


def begin(attempt: int) -> StreamEvent:
    return StreamEvent(attempt, 0, StreamEventType.ATTEMPT)


class Reader:
    """Follows a job in a task of its own."""

    def __init__(self, feeds: Feeds, job_id: str, after: EventId = BEFORE_ALL) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.events: list[StreamEvent] = []
        self.changed = asyncio.Event()
        self.task = asyncio.create_task(self._read(feeds, job_id, after))

    async def _read(self, feeds: Feeds, job_id: str, after: EventId) -> None:
        async with aclosing(feeds.follow(job_id, after, self.end)) as found:
            async for events in found:
                self.events += events
                self.changed.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.events) < count:
                self.changed.clear()
                await self.changed.wait()

    async def finish(self) -> list[str]:
        if not self.end.done():
            self.end.set_result(None)
        async with asyncio.timeout(10):
            await self.task
        return [event.id for event in self.events]


def feeds_of(log: Log) -> Feeds:
    return Feeds(log.store, 0.02, 0.5)


@pytest.fixture
def job_id() -> str:
    return str(uuid7())


class TestFollowing:
    async def test_events_come_in_order_and_once(self, log: Log, job_id: str) -> None:
        reader = Reader(feeds_of(log), job_id)
        for number in range(50):
            await log.write(job_id, chunk(1, number))
        await reader.has(50)
        assert await reader.finish() == [f"1-{number}" for number in range(50)]

    async def test_last_events_come_before_the_end(self, log: Log, job_id: str) -> None:
        reader = Reader(feeds_of(log), job_id)
        await log.write(job_id, begin(1))
        await reader.has(1)
        await log.write(job_id, *(chunk(1, number) for number in range(1, 300)))
        assert len(await reader.finish()) == 300

    async def test_ended_job_is_read_whole(self, log: Log, job_id: str) -> None:
        data = "y" * 60_000
        for start in range(0, 60, 10):
            await log.write(job_id, *(chunk(1, start + n, data) for n in range(10)))
        reader = Reader(feeds_of(log), job_id)
        assert len(await reader.finish()) == 60

    async def test_resumes_after_an_id(self, log: Log, job_id: str) -> None:
        await log.write(job_id, *(chunk(1, number) for number in range(10)))
        reader = Reader(feeds_of(log), job_id, (1, 6))
        await reader.has(3)
        await log.write(job_id, chunk(1, 10))
        assert await reader.finish() == ["1-7", "1-8", "1-9", "1-10"]

    async def test_first_chunk_is_seen_soon(self, log: Log, job_id: str) -> None:
        reader = Reader(feeds_of(log), job_id)
        loop = asyncio.get_running_loop()
        await log.write(job_id, begin(1))
        await reader.has(1)
        delays = []
        for number in range(1, 20):
            await asyncio.sleep(0.013)
            await log.write(job_id, chunk(1, number))
            written_at = loop.time()
            await reader.has(number + 1)
            delays.append(loop.time() - written_at)
        await reader.finish()
        assert sorted(delays)[len(delays) // 2] < 0.05

    async def test_job_without_a_log_only_ends(self, log: Log, job_id: str) -> None:
        assert await Reader(feeds_of(log), job_id).finish() == []
