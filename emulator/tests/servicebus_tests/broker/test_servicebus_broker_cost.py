"""Test that the cost of an operation does not depend on the length of the queue.

The tests count Python calls and SQLite instructions instead of measuring time.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest

from emulator.servicebus.broker.message import IncomingMessage, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.broker.transactions import ContentCache
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message

SHALLOW, DEEP = 100, 10_000


async def send(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("new")])


async def receive_and_complete(servicebus: RunningBroker) -> None:
    await servicebus.queue().complete(lock_token_of(servicebus.receive()))


async def receive_and_delete(servicebus: RunningBroker) -> None:
    servicebus.receive(mode=ReceiveMode.RECEIVE_AND_DELETE)


async def abandon(servicebus: RunningBroker) -> None:
    await servicebus.queue().abandon(lock_token_of(servicebus.receive()))


async def renew(servicebus: RunningBroker) -> None:
    token = lock_token_of(servicebus.receive())
    await servicebus.queue().renew([token])
    await servicebus.queue().release(token)


async def defer_and_receive(servicebus: RunningBroker) -> None:
    delivery = servicebus.receive()
    await servicebus.queue().defer(lock_token_of(delivery))
    number = delivery.message.sequence_number
    await servicebus.queue().receive_deferred([number], ReceiveMode.RECEIVE_AND_DELETE)


async def dead_letter(servicebus: RunningBroker) -> None:
    await servicebus.queue().dead_letter(lock_token_of(servicebus.receive()), "Bad", None)


async def schedule_and_cancel(servicebus: RunningBroker) -> None:
    numbers = await servicebus.queue().schedule(
        [message("later", scheduled_at=servicebus.after(9))]
    )
    await servicebus.queue().cancel_scheduled(numbers)


async def let_a_lock_expire(servicebus: RunningBroker) -> None:
    servicebus.receive()
    servicebus.advance(60)


async def peek_in_the_middle(servicebus: RunningBroker) -> None:
    middle = servicebus.queue().counts().total // 2
    assert len(servicebus.queue().peek(middle, 10)) == 10


async def count_messages(servicebus: RunningBroker) -> None:
    servicebus.queue().counts()


class _Meter:
    """Counts the calls of Python functions and the instructions of SQLite in a `with` block."""

    def __init__(self, servicebus: RunningBroker) -> None:
        self.calls = 0
        self.steps = 0
        self._connection = servicebus.broker.transactions.store.connection

    def __enter__(self) -> "_Meter":
        self._connection.set_progress_handler(self._step, 1)
        sys.setprofile(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._connection.set_progress_handler(None, 1)

    def _step(self) -> int:
        self.steps += 1
        return 0

    def _call(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += event in {"call", "c_call"}


async def _cost(
    folder: Path, depth: int, operation: Callable[[RunningBroker], Awaitable[None]]
) -> _Meter:
    servicebus = await RunningBroker.open(folder, QueueSettings("q", max_delivery_count=2000))
    await servicebus.queue().send(
        [message(f"{at}", time_to_live_seconds=100_000) for at in range(depth)]
    )
    await operation(servicebus)
    with _Meter(servicebus) as meter:
        for _ in range(10):
            await operation(servicebus)
    await servicebus.broker.close()
    return meter


@pytest.mark.parametrize(
    "operation",
    [
        send,
        receive_and_complete,
        receive_and_delete,
        abandon,
        renew,
        defer_and_receive,
        dead_letter,
        schedule_and_cancel,
        let_a_lock_expire,
        peek_in_the_middle,
        count_messages,
    ],
)
async def test_cost_does_not_grow_with_the_queue(
    tmp_path_factory: pytest.TempPathFactory, operation: Callable[[RunningBroker], Awaitable[None]]
) -> None:
    shallow = await _cost(tmp_path_factory.mktemp("shallow"), SHALLOW, operation)
    deep = await _cost(tmp_path_factory.mktemp("deep"), DEEP, operation)
    assert deep.calls <= shallow.calls * 1.2
    assert deep.steps <= shallow.steps * 1.2 + 10


async def test_one_message_takes_two_transactions(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    receiver = servicebus.receiver(credit=1)
    statements: list[str] = []
    servicebus.broker.transactions.store.connection.set_trace_callback(statements.append)
    await servicebus.queue().send([message("job")])
    await servicebus.queue().complete(lock_token_of(receiver.deliveries[0]))
    assert [each.split()[0] for each in statements] == (
        ["BEGIN", "INSERT", "UPDATE", "COMMIT", "BEGIN", "DELETE", "COMMIT"]
    )
    await servicebus.broker.close()


def test_content_cache_stays_within_its_limit() -> None:
    read: list[int] = []

    def read_content(id_: int) -> IncomingMessage:
        read.append(id_)
        return message("from the database")

    contents = ContentCache(read_content, cache_bytes=1_000_000)
    for id_ in range(20):
        contents.add(id_, message("x" * 100_000))
        contents.commit([id_])
    assert contents.cached_bytes <= 1_000_000
    for id_ in range(20):
        contents.get(id_)
    assert read == list(range(10))
