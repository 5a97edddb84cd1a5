"""A queue that is a hundred times deeper costs the same per operation: counted, not timed."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest

from emulator.servicebus.broker.message import ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import World, message, token_of

SHALLOW, DEEP = 100, 10_000


async def send(world: World) -> None:
    await world.queue().send([message("new")])


async def receive_and_complete(world: World) -> None:
    await world.queue().complete(token_of(world.receive()))


async def receive_and_delete(world: World) -> None:
    world.receive(mode=ReceiveMode.RECEIVE_AND_DELETE)


async def abandon(world: World) -> None:
    await world.queue().abandon(token_of(world.receive()))


async def renew(world: World) -> None:
    token = token_of(world.receive())
    await world.queue().renew([token])
    await world.queue().release(token)


async def defer_and_receive(world: World) -> None:
    delivery = world.receive()
    await world.queue().defer(token_of(delivery))
    number = delivery.message.sequence_number
    await world.queue().receive_deferred([number], ReceiveMode.RECEIVE_AND_DELETE)


async def dead_letter(world: World) -> None:
    await world.queue().dead_letter(token_of(world.receive()), "Bad", None)


async def schedule_and_cancel(world: World) -> None:
    numbers = await world.queue().schedule([message("later", scheduled_at=world.after(9))])
    await world.queue().cancel_scheduled(numbers)


async def let_a_lock_expire(world: World) -> None:
    world.receive()
    world.advance(60)


async def peek_in_the_middle(world: World) -> None:
    middle = world.queue().counts().total // 2
    assert len(world.queue().peek(middle, 10)) == 10


async def count_messages(world: World) -> None:
    world.queue().counts()


class _Meter:
    """Counts the calls that Python makes and the instructions that SQLite runs."""

    def __init__(self, world: World) -> None:
        self.calls = 0
        self.steps = 0
        self._connection = world.broker._transactions.store._connection

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


async def _cost(folder: Path, depth: int, operation: Callable[[World], Awaitable[None]]) -> _Meter:
    world = await World.open(folder, QueueSettings("q", max_delivery_count=2000))
    await world.queue().send(
        [message(f"{at}", time_to_live_seconds=100_000) for at in range(depth)]
    )
    await operation(world)
    with _Meter(world) as meter:
        for _ in range(10):
            await operation(world)
    await world.broker.close()
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
async def test_depth_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory, operation: Callable[[World], Awaitable[None]]
) -> None:
    shallow = await _cost(tmp_path_factory.mktemp("shallow"), SHALLOW, operation)
    deep = await _cost(tmp_path_factory.mktemp("deep"), DEEP, operation)
    assert deep.calls <= shallow.calls * 1.2
    assert deep.steps <= shallow.steps * 1.2 + 10


async def test_a_job_costs_two_transactions(tmp_path: Path) -> None:
    world = await World.open(tmp_path)
    inbox = world.receiver(credit=1)
    statements: list[str] = []
    world.broker.trace(statements.append)
    await world.queue().send([message("job")])
    await world.queue().complete(token_of(inbox.deliveries[0]))
    assert [each.split()[0] for each in statements] == (
        ["BEGIN", "INSERT", "UPDATE", "COMMIT", "BEGIN", "DELETE", "COMMIT"]
    )
    await world.broker.close()


async def test_contents_of_a_deep_queue_stay_on_disk(tmp_path: Path) -> None:
    world = await World.open(tmp_path)
    world.broker._transactions.contents._cache_bytes = 1_000_000
    for _ in range(20):
        await world.queue().send([message("x" * 100_000)])
    contents = world.broker._transactions.contents
    assert contents._cached_bytes <= 1_000_000
    assert len(contents._cached) == 10
    assert {len(body) for body in world.bodies()} == {100_000}
    await world.broker.close()
