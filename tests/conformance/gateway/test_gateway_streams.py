"""Test streams on both stores: our blob storage emulator, and a real redis-server."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

import pytest
from redis.asyncio import Redis
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
from gateway.storage.azure import AzureBlobs, PayloadContainer
from gateway.storage.blobs import Blobs
from gateway.streams.feeds import MAX_BEHIND_BYTES, Feeds, LogUnreadable, ReaderBehind
from gateway.streams.redis_logs import RedisLogs
from gateway.streams.store import BlobLogs, LogPlace, StreamLogs
from tests.conformance.gateway.emulated_services import storage
from tests.ports import free_port
from tests.stream_stores import running_redis

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
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["blobs", "redis"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    if request.param == "blobs":
        container = PayloadContainer(storage(request.getfixturevalue("blob_port")), "streams-test")
        yield BlobLog(AzureBlobs(container))
        await container.close()
        return
    opened = RedisLog(request.getfixturevalue("redis_url"))
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


class CountingLogs:
    """Counts the reads of a store, fails while `is_down`, and returns while `may_return` is set."""

    def __init__(self, logs: StreamLogs) -> None:
        self.logs = logs
        self.reads_at_once = logs.reads_at_once
        self.pause_seconds = logs.pause_seconds
        self.count = 0
        self.is_down = False
        self.may_return = asyncio.Event()
        self.may_return.set()

    async def read(self, places: Sequence[LogPlace]) -> list[list[StreamEvent] | None]:
        self.count += len(places)
        found: list[list[StreamEvent] | None] = [None for _ in places]
        if not self.is_down:
            found = await self.logs.read(places)
        await self.may_return.wait()
        return found


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

    async def test_later_attempt_follows_the_first(self, log: Log, job_id: str) -> None:
        await log.write(job_id, begin(1), chunk(1, 1), begin(2), chunk(2, 1))
        reader = Reader(feeds_of(log), job_id, (1, 1))
        assert await reader.finish() == ["2-0", "2-1"]

    async def test_read_before_the_end_is_not_the_last(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        reader = Reader(Feeds(logs, 0.02, 0.5), job_id)
        await log.write(job_id, chunk(1, 1))
        await reader.has(1)
        logs.may_return.clear()
        before = logs.count
        while logs.count == before:  # noqa: ASYNC110 - until a read has begun
            await asyncio.sleep(0.01)
        await log.write(job_id, chunk(1, 2))
        reader.end.set_result(None)
        await asyncio.sleep(0.05)
        logs.may_return.set()
        assert await reader.finish() == ["1-1", "1-2"]


class TestSharing:
    async def test_readers_of_a_job_share_reads(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        feeds = Feeds(logs, 0.02, 0.5)
        readers = [Reader(feeds, job_id) for _ in range(100)]
        await log.write(job_id, begin(1))
        await asyncio.gather(*(reader.has(1) for reader in readers))
        before = logs.count
        for number in range(1, 20):
            await log.write(job_id, chunk(1, number))
            await asyncio.gather(*(reader.has(number + 1) for reader in readers))
        assert logs.count - before < 100
        found = await asyncio.gather(*(reader.finish() for reader in readers))
        assert {len(ids) for ids in found} == {20}

    async def test_late_reader_gets_all(self, log: Log, job_id: str) -> None:
        feeds = feeds_of(log)
        first = Reader(feeds, job_id)
        await log.write(job_id, *(chunk(1, number) for number in range(200)))
        await first.has(200)
        late = Reader(feeds, job_id)
        await log.write(job_id, chunk(1, 200))
        await asyncio.gather(first.has(201), late.has(201))
        assert await first.finish() == await late.finish()

    async def test_silent_log_is_read_less_often(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        reader = Reader(Feeds(logs, 0.2, 0.5), job_id)
        await asyncio.sleep(0.5)
        assert logs.count <= 4
        await reader.finish()

    async def test_nobody_reads_after_the_last_reader(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        reader = Reader(Feeds(logs, 0.02, 0.5), job_id)
        await log.write(job_id, chunk(1, 1))
        await reader.has(1)
        reader.task.cancel()
        await asyncio.wait([reader.task])
        await asyncio.sleep(0.1)
        before = logs.count
        await asyncio.sleep(0.1)
        assert logs.count == before


async def _take_all(found: AsyncIterator[list[StreamEvent]], got: list[StreamEvent]) -> None:
    async for events in found:
        got += events


class TestSlowReader:
    async def test_is_dropped_and_can_resume(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        feeds = Feeds(logs, 0.02, 0.5)
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with aclosing(feeds.follow(job_id, BEFORE_ALL, end)) as found:
            slow = asyncio.ensure_future(anext(found))
            while logs.count < 2:  # noqa: ASYNC110 - until the reader no longer reads alone
                await asyncio.sleep(0.01)
            fast = Reader(feeds, job_id)
            await log.write(job_id, begin(1))
            got = await slow
            count = MAX_BEHIND_BYTES // 50_000 + 20
            for number in range(1, count):
                await log.write(job_id, chunk(1, number, "x" * 50_000))
                await fast.has(number + 1)
            with pytest.raises(ReaderBehind) as caught:
                await _take_all(found, got)
            assert caught.value.after == got[-1].key
        again = Reader(feeds, job_id, caught.value.after)
        ids = [event.id for event in got] + await again.finish()
        assert ids == [f"1-{number}" for number in range(count)] == await fast.finish()


class TestStoreIsDown:
    async def test_stream_goes_on_afterwards(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        reader = Reader(Feeds(logs, 0.02, 0.5), job_id)
        await log.write(job_id, chunk(1, 1))
        await reader.has(1)
        logs.is_down = True
        await log.write(job_id, chunk(1, 2))
        await asyncio.sleep(0.1)
        logs.is_down = False
        await reader.has(2)
        assert await reader.finish() == ["1-1", "1-2"]

    async def test_end_does_not_wait_for_ever(self, log: Log, job_id: str) -> None:
        logs = CountingLogs(log.store)
        reader = Reader(Feeds(logs, 0.02, 0.5), job_id)
        await log.write(job_id, chunk(1, 1))
        await reader.has(1)
        logs.is_down = True
        with pytest.raises(LogUnreadable):
            await reader.finish()


async def test_unreachable_redis_is_no_answer(job_id: str) -> None:
    logs = RedisLogs(f"redis://127.0.0.1:{free_port()}")
    assert await logs.read([LogPlace(job_id, BEFORE_ALL)]) == [None]
    await logs.close()
