"""Test that simultaneous callers of `ModelStates` share one read of the workers' heartbeats."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.names import heartbeat_blob
from gateway.queues.model_states import READY_FOR, ModelStates
from gateway.queues.workers import WorkerHeartbeats
from gateway.storage.blobs import ListedBlob
from tests.unit.gateway.blob_memory import MemoryBlobs
from tests.unit.gateway.memory import ManualClock, MemoryPayloads


@dataclass
class SlowBlobs(MemoryBlobs):
    """Blobs in memory. A call of `list` waits until `can_answer` is set, and then takes 5 s."""

    list_count: int = 0
    has_asked: asyncio.Event = field(default_factory=asyncio.Event)
    can_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        self.list_count += 1
        self.has_asked.set()
        await self.can_answer.wait()
        self.clock.now += timedelta(seconds=5)
        async for blob in super().list(prefix):
            yield blob


def write_heartbeat(blobs: SlowBlobs) -> None:
    """Write the heartbeat of a worker with a ready model and a broken model."""
    models = ModelHeartbeat("good", ModelState.LOADED), ModelHeartbeat("bad", ModelState.BROKEN)
    heartbeat = Heartbeat(
        worker="pod-7",
        version="1",
        started_at=blobs.clock(),
        interval_seconds=5.0,
        models=models,
    )
    blobs.put(heartbeat_blob("pod-7"), encode_heartbeat(heartbeat))


def open_states() -> tuple[SlowBlobs, ModelStates]:
    clock = ManualClock()
    blobs = SlowBlobs(MemoryPayloads(), clock)
    write_heartbeat(blobs)
    return blobs, ModelStates(WorkerHeartbeats(blobs, clock, is_enabled=True), clock)


@pytest.mark.parametrize("is_failing", [False, True])
async def test_simultaneous_callers_share_a_read(is_failing: bool) -> None:
    blobs, states = open_states()
    blobs.is_unlistable = is_failing
    callers = [asyncio.create_task(states.ready()) for _ in range(20)]
    await blobs.has_asked.wait()
    blobs.can_answer.set()
    found = await asyncio.gather(*callers)
    assert found == [None if is_failing else frozenset({"good"})] * 20
    assert blobs.list_count == 1
    blobs.clock.now += READY_FOR
    await states.ready()
    assert blobs.list_count == 2


async def test_cached_states_do_not_wait_for_a_read() -> None:
    blobs, states = open_states()
    blobs.can_answer.set()
    assert await states.broken() == {"bad"}
    blobs.has_asked.clear()
    blobs.can_answer.clear()
    blobs.clock.now += READY_FOR
    reading = asyncio.create_task(states.ready())
    await blobs.has_asked.wait()
    async with asyncio.timeout(5):
        assert await states.broken() == {"bad"}
    assert not reading.done()
    blobs.can_answer.set()
    assert await reading == frozenset({"good"})


async def test_cancelled_read_is_repeated() -> None:
    blobs, states = open_states()
    first = asyncio.create_task(states.ready())
    await blobs.has_asked.wait()
    second = asyncio.create_task(states.ready())
    first.cancel()
    blobs.can_answer.set()
    assert await second == frozenset({"good"})
    assert blobs.list_count == 2
