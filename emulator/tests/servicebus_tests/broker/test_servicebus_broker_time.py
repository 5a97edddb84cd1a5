"""Time to live, scheduling and the window of duplicate detection."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import SystemClock
from emulator.servicebus.broker.errors import MessageNotFound
from emulator.servicebus.broker.message import Delivery, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import World, message, token_of

DROPPING = QueueSettings("drop", default_message_time_to_live=timedelta(seconds=100))
KEEPING = QueueSettings("keep", dead_lettering_on_message_expiration=True)
WINDOW = QueueSettings("once", duplicate_detection_window=timedelta(seconds=20))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World.open(tmp_path, DROPPING, KEEPING, WINDOW)
    yield world
    await world.broker.close()


async def test_an_expired_message_is_dropped(world: World) -> None:
    await world.queue("drop").send([message("a", time_to_live_seconds=5)])
    world.advance(4.9)
    assert world.bodies("drop") == ["a"]
    world.advance(0.1)
    assert world.queue("drop").counts().total == 0


async def test_an_expired_message_is_dead_lettered_where_that_is_wanted(world: World) -> None:
    await world.queue("keep").send([message("a", time_to_live_seconds=5)])
    world.advance(5)
    (dead,) = world.dead_letters("keep").peek(0, 10)
    assert dead.dead_letter_reason == "TTLExpiredException"
    assert dead.time_to_live == timedelta(seconds=5)
    world.advance(1_000_000)
    assert world.bodies("keep/$DeadLetterQueue") == ["a"]


async def test_the_default_caps_a_longer_life(world: World) -> None:
    queue = world.queue("drop")
    await queue.send([message("a", time_to_live_seconds=1000), message("b")])
    assert [each.time_to_live for each in queue.peek(0, 2)] == [timedelta(seconds=1000), None]
    world.advance(100)
    assert world.bodies("drop") == []


async def test_a_locked_message_does_not_expire_under_its_holder(world: World) -> None:
    queue = world.queue("keep")
    await queue.send([message(body, time_to_live_seconds=5) for body in "abc"])
    first, second = world.receive("keep"), world.receive("keep")
    world.advance(50)
    assert world.bodies("keep") == ["a", "b"]
    await queue.complete(token_of(first))
    await queue.release(token_of(second))
    assert world.bodies("keep") == []
    assert world.bodies("keep/$DeadLetterQueue") == ["b", "c"]


async def test_a_message_whose_life_ended_under_its_lock_is_dropped_with_the_lock(
    world: World,
) -> None:
    await world.queue("drop").send([message("a", time_to_live_seconds=5)])
    world.receive("drop")
    world.advance(60)
    assert world.bodies("drop") == []


async def test_a_deferred_message_expires_too(world: World) -> None:
    queue = world.queue("keep")
    await queue.send([message("a", time_to_live_seconds=5)])
    await queue.defer(token_of(world.receive("keep")))
    world.advance(5)
    (dead,) = world.dead_letters("keep").peek(0, 10)
    assert dead.state is MessageState.ACTIVE
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)


async def test_an_expired_message_is_not_delivered_even_if_no_timer_ran(world: World) -> None:
    await world.queue("drop").send([message("a", time_to_live_seconds=5)])
    world.clock.at = world.after(5)
    assert not world.receiver("drop", credit=1).deliveries


async def test_a_lifetime_past_the_calendar_is_no_limit(world: World) -> None:
    await world.queue("keep").send([message("a", time_to_live_seconds=10675199 * 86400)])
    assert world.queue("keep").peek(0, 1)[0].expires_at is None
    await world.restart()
    assert world.bodies("keep") == ["a"]


async def test_a_scheduled_message_joins_the_end_when_its_time_comes(world: World) -> None:
    queue = world.queue("keep")
    (number,) = await queue.schedule([message("later", scheduled_at=world.after(10))])
    await queue.send([message("now")])
    inbox = world.receiver("keep", credit=5)
    assert (number, inbox.bodies) == (1, ["now"])
    world.advance(10)
    later = inbox.deliveries[1].message
    assert (later.sequence_number, later.enqueue_sequence_number) == (3, 1)
    assert (later.enqueued_at, later.state) == (world.clock.at, MessageState.ACTIVE)


async def test_a_scheduled_message_lives_from_its_start(world: World) -> None:
    due = message("a", scheduled_at=world.after(10), time_to_live_seconds=5)
    await world.queue("drop").send([due])
    world.advance(10)
    world.advance(4)
    assert world.bodies("drop") == ["a"]
    world.advance(1)
    assert world.bodies("drop") == []


async def test_a_schedule_in_the_past_means_now(world: World) -> None:
    await world.queue("keep").schedule([message("a", scheduled_at=world.after(-1))])
    assert world.receive("keep").message.state is MessageState.ACTIVE


async def test_cancelling_is_all_or_none(world: World) -> None:
    queue = world.queue("keep")
    numbers = await queue.schedule([message(scheduled_at=world.after(9)) for _ in range(3)])
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled([*numbers, 99])
    await queue.cancel_scheduled(numbers[:2])
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled(numbers[:1])
    world.advance(9)
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled(numbers[2:])


async def test_a_duplicate_is_accepted_and_dropped(world: World) -> None:
    queue = world.queue("once")
    first = await queue.send([message("a", message_id="1"), message("b", message_id="2")])
    again = await queue.send([message("c", message_id="2"), message("d", message_id="3")])
    assert (first, again) == ([1, 2], [2, 3])
    assert world.bodies("once") == ["a", "b", "d"]


async def test_a_duplicate_within_one_send_is_dropped(world: World) -> None:
    same = [message("a", message_id="1"), message("b", message_id="1")]
    assert await world.queue("once").send(same) == [1, 1]
    assert world.bodies("once") == ["a"]


async def test_messages_without_an_id_are_never_duplicates(world: World) -> None:
    await world.queue("once").send([message("a"), message("a")])
    assert world.bodies("once") == ["a", "a"]


async def test_ids_are_remembered_after_completion_and_restart_until_the_window_ends(
    world: World,
) -> None:
    await world.queue("once").send([message("a", message_id="1")])
    await world.queue("once").complete(token_of(world.receive("once")))
    world.advance(19)
    await world.restart()
    await world.queue("once").send([message("b", message_id="1")])
    assert world.bodies("once") == []
    world.advance(1)
    await world.queue("once").send([message("c", message_id="1")])
    assert world.bodies("once") == ["c"]


async def test_an_id_that_was_seen_in_two_windows_is_remembered_for_the_second(
    world: World,
) -> None:
    queue = world.queue("once")
    await queue.send([message("a", message_id="1")])
    world.advance(20)
    await queue.send([message("b", message_id="1")])
    await world.restart()
    await world.queue("once").send([message("c", message_id="2"), message("d", message_id="1")])
    assert world.bodies("once") == ["a", "b", "c"]


async def test_forgotten_ids_leave_the_disk(world: World) -> None:
    queue = world.queue("once")
    await queue.send([message(message_id=f"{at}") for at in range(400)])
    world.advance(20)
    await queue.send([message(message_id="another")])
    await world.restart()
    statements: list[str] = []
    world.broker.trace(statements.append)
    await world.queue("once").send([message(message_id="0")])
    assert not any("DELETE FROM sightings" in each for each in statements)


async def test_the_timer_wakes_the_broker(tmp_path: Path) -> None:
    # The one test on the machine's clock: everything else is told what is due.
    broker = await Broker.open(tmp_path / "timed.sqlite", [KEEPING], SystemClock())
    arrived: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
    broker.queue("keep").subscribe(ReceiveMode.PEEK_LOCK, arrived.set_result).set_credit(1)
    soon = SystemClock().now() + timedelta(milliseconds=20)
    await broker.queue("keep").schedule([message("a", scheduled_at=soon)])
    delivery = await asyncio.wait_for(arrived, 5)
    assert delivery.message.enqueued_at >= soon
    await broker.close()
