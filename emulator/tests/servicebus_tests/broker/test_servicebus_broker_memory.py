"""Test that the broker does not keep the contents of queued messages in memory."""

import tracemalloc
from collections.abc import Iterator

import pytest

from emulator.servicebus.broker.transactions import CACHE_BYTES
from servicebus_tests.broker.broker_harness import RunningBroker, message

BODY_BYTES, MESSAGE_COUNT, BATCH = 26_000, 1_000, 50
RECORD_BYTES = 3_000  # a record, its entries in the indexes, its due time


@pytest.fixture
def traced_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced_memory")
async def test_long_queue_keeps_only_records_and_a_cache(
    servicebus: RunningBroker,
) -> None:
    before, _ = tracemalloc.get_traced_memory()
    for start in range(0, MESSAGE_COUNT, BATCH):
        await servicebus.queue().send(
            [message(f"{number:0{BODY_BYTES}}") for number in range(start, start + BATCH)]
        )
    kept, _ = tracemalloc.get_traced_memory()
    assert kept - before < CACHE_BYTES + MESSAGE_COUNT * RECORD_BYTES
    # All contents are complete, whether they come from the cache or from the database.
    received = [servicebus.receive().message.bare.decode() for _ in range(MESSAGE_COUNT)]
    assert received == [f"{number:0{BODY_BYTES}}" for number in range(MESSAGE_COUNT)]
