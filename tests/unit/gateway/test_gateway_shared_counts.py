"""Test that gateway processes share their counts of the messages in a queue through a blob."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from contract.names import queue_length_blob
from gateway.errors import Unavailable
from gateway.queues.client import MessageCounts
from gateway.queues.estimates import (
    ALONE_AFTER_SECONDS,
    ALONE_WRITE_SECONDS,
    QueueStatistics,
    SharedCount,
    SharedCounts,
    decode_shared_count,
)
from tests.unit.gateway.blob_memory import MemoryBlobs
from tests.unit.gateway.memory import ManualClock, MemoryPayloads, MemoryQueues

QUEUE = "noop"
BLOB = queue_length_blob(QUEUE)


@dataclass
class Cloud:
    """Service Bus and blob storage in memory, which simulated gateway processes share.

    The clocks of the processes may differ from the clock of the test.
    """

    queues: MemoryQueues = field(default_factory=MemoryQueues)
    clock: ManualClock = field(default_factory=ManualClock)
    blobs: MemoryBlobs = field(init=False)

    def __post_init__(self) -> None:
        self.blobs = MemoryBlobs(MemoryPayloads(), self.clock)

    @property
    def now(self) -> datetime:
        return self.clock.now

    def process(self, name: str, skew_seconds: float = 0.0, spread: float = 0.5) -> SharedCounts:
        return SharedCounts(
            self.queues,
            self.blobs,
            lambda: self.now + timedelta(seconds=skew_seconds),
            process=name,
            random_fraction=lambda: spread,
        )

    def statistics(self, shared: SharedCounts) -> QueueStatistics:
        return QueueStatistics(shared, lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.clock.now += timedelta(seconds=seconds)

    async def write_count(self, length: int, process: str, age_seconds: float = 0.0) -> None:
        """Write a count of `length` messages into the queue's blob, as if by a gateway process.

        `process` is the name of the process. The count was taken `age_seconds` ago.
        """
        at_seconds = self.now.timestamp() - age_seconds
        count = SharedCount(MessageCounts(length), at_seconds, process)
        await self.blobs.delete(BLOB)
        await self.blobs.create(BLOB, count.encode())


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


async def test_forty_processes_together_count_the_messages_in_a_queue_once_a_second(
    cloud: Cloud,
) -> None:
    cloud.queues.lengths[QUEUE] = 7
    processes = [cloud.process(f"p{n}", spread=(n + 0.5) / 40) for n in range(40)]
    statistics = [cloud.statistics(each) for each in processes]
    for each in statistics:
        assert await each.length(QUEUE) == 7
    begun = cloud.queues.look_count
    for _ in range(100):
        cloud.wait(0.1)
        for each in statistics:
            assert await each.length(QUEUE) == 7
    # Ten seconds with a count in each.
    assert 9 <= cloud.queues.look_count - begun <= 11


async def test_another_process_counts_the_messages_if_the_counting_process_dies(
    cloud: Cloud,
) -> None:
    dying, other = cloud.process("a"), cloud.process("b")
    own, shown = cloud.statistics(dying), cloud.statistics(other)
    cloud.queues.lengths[QUEUE] = 7
    assert await own.length(QUEUE) == await shown.length(QUEUE) == 7
    cloud.queues.lengths[QUEUE] = 9
    cloud.wait(1.4)
    assert await shown.length(QUEUE) == 7, "another's count is used for up to twice as long"
    cloud.wait(0.2)
    assert await shown.length(QUEUE) == 9


@pytest.mark.parametrize("skew_seconds", [-300.0, -1.5, 1.5, 300.0])
async def test_a_process_with_a_wrong_clock_ignores_the_shared_count_and_counts_the_messages_itself(
    cloud: Cloud, skew_seconds: float
) -> None:
    await cloud.write_count(3, "other")
    cloud.queues.lengths[QUEUE] = 8
    count = await cloud.process("own", skew_seconds).count(QUEUE)
    assert (count.counts.active, count.process) == (8, "own")


async def test_a_shared_count_whose_time_is_slightly_in_the_future_is_treated_as_current(
    cloud: Cloud,
) -> None:
    await cloud.write_count(3, "other", age_seconds=-0.5)
    count = await cloud.process("own").count(QUEUE)
    assert (count.counts.active, count.at_seconds) == (3, cloud.now.timestamp())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"active": "x"}', b'{"active": 1e999}', b"\xff"],
)
async def test_a_blob_without_a_valid_message_count_is_replaced(
    cloud: Cloud, content: bytes
) -> None:
    await cloud.blobs.create(BLOB, content)
    cloud.queues.lengths[QUEUE] = 8
    assert (await cloud.process("own").count(QUEUE)).counts.active == 8
    blob = await cloud.blobs.read(BLOB)
    assert blob is not None
    written = decode_shared_count(blob.data)
    assert written is not None
    assert written.counts.active == 8


async def test_a_single_gateway_process_writes_its_message_count_only_twice_a_minute(
    cloud: Cloud,
) -> None:
    shared = cloud.process("only")
    etags = set()
    for _ in range(60):
        await shared.count(QUEUE)
        blob = await cloud.blobs.read(BLOB)
        etags.add(blob.etag if blob else None)
        cloud.wait(1.01)
    assert len(etags) == 60 / ALONE_WRITE_SECONDS
    assert cloud.queues.look_count == 60


async def test_a_process_writes_each_message_count_if_another_process_wrote_one_in_the_last_minute(
    cloud: Cloud,
) -> None:
    shared = cloud.process("own")
    await shared.count(QUEUE)
    await cloud.write_count(3, "other", age_seconds=1.5)
    written = []
    for _ in range(int(ALONE_AFTER_SECONDS) + 10):
        count = await shared.count(QUEUE)
        blob = await cloud.blobs.read(BLOB)
        written.append(blob is not None and blob.data == count.encode())
        cloud.wait(1.01)
    assert all(written[: int(ALONE_AFTER_SECONDS / 1.01)])
    assert not any(written[-5:])


async def test_a_process_counts_the_messages_itself_if_blob_storage_fails_or_does_not_respond(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("blobs", "switched off")

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.queues.estimates.SHARED_READ_SECONDS", 0.01)
    cloud.queues.lengths[QUEUE] = 8
    shared = cloud.process("own")
    for method in ("read", "create"):
        for behavior in (fail, hang):
            with monkeypatch.context() as patch:
                patch.setattr(cloud.blobs, method, behavior)
                assert (await shared.count(QUEUE)).counts.active == 8


async def test_a_process_that_cannot_count_messages_uses_the_recent_count_of_another_process(
    cloud: Cloud,
) -> None:
    cloud.queues.is_down = True
    await cloud.write_count(5, "other", age_seconds=0.5)
    shared = cloud.process("own")
    assert (await shared.count(QUEUE)).counts.active == 5
    cloud.wait(1.0)
    with pytest.raises(Unavailable):
        await shared.count(QUEUE)


async def test_only_replies_that_arrive_after_the_shared_count_reduce_the_estimated_queue_length(
    cloud: Cloud,
) -> None:
    statistics = cloud.statistics(cloud.process("own"))
    statistics.record_reply()
    cloud.wait(1.0)
    await cloud.write_count(5, "other")
    cloud.wait(0.4)
    statistics.record_reply()
    statistics.record_arrival(cloud.now.timestamp())
    statistics.record_arrival(cloud.now.timestamp())
    # Five messages, two later jobs, and one later reply: the first reply was before the count.
    assert await statistics.length(QUEUE) == 6
