"""Test time to live, scheduled messages and duplicate detection."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import MessageNotFound
from emulator.servicebus.broker.message import MessageDelivery, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message

DROPPING = QueueSettings("drop", default_message_time_to_live=timedelta(seconds=100))
KEEPING = QueueSettings("keep", dead_lettering_on_message_expiration=True)
WINDOW = QueueSettings("once", duplicate_detection_window=timedelta(seconds=20))


@pytest.fixture
async def servicebus(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    servicebus = await RunningBroker.open(tmp_path, DROPPING, KEEPING, WINDOW)
    yield servicebus
    await servicebus.broker.close()


async def test_expired_message_is_dropped(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("drop").send([message("a", time_to_live_seconds=5)])
    servicebus.advance(4.9)
    assert servicebus.bodies("drop") == ["a"]
    servicebus.advance(0.1)
    assert servicebus.queue("drop").counts().total == 0


async def test_expired_message_is_dead_lettered_if_configured(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("keep").send([message("a", time_to_live_seconds=5)])
    servicebus.advance(5)
    (dead,) = servicebus.dead_letters("keep").peek(0, 10)
    assert dead.dead_letter_reason == "TTLExpiredException"
    assert dead.time_to_live == timedelta(seconds=5)
    servicebus.advance(1_000_000)
    assert servicebus.bodies("keep/$DeadLetterQueue") == ["a"]


async def test_queues_time_to_live_limits_the_messages(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("drop")
    await queue.send([message("a", time_to_live_seconds=1000), message("b")])
    assert [each.time_to_live for each in queue.peek(0, 2)] == [timedelta(seconds=1000), None]
    servicebus.advance(100)
    assert servicebus.bodies("drop") == []


async def test_locked_message_does_not_expire(servicebus: RunningBroker) -> None:
    queue = servicebus.queue("keep")
    await queue.send([message(body, time_to_live_seconds=5) for body in "abc"])
    first, second = servicebus.receive("keep"), servicebus.receive("keep")
    servicebus.advance(50)
    assert servicebus.bodies("keep") == ["a", "b"]
    await queue.complete(lock_token_of(first))
    await queue.release(lock_token_of(second))
    assert servicebus.bodies("keep") == []
    assert servicebus.bodies("keep/$DeadLetterQueue") == ["b", "c"]


async def test_message_expired_while_locked_is_dropped_later(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("drop").send([message("a", time_to_live_seconds=5)])
    servicebus.receive("drop")
    servicebus.advance(60)
    assert servicebus.bodies("drop") == []


async def test_deferred_message_expires(servicebus: RunningBroker) -> None:
    queue = servicebus.queue("keep")
    await queue.send([message("a", time_to_live_seconds=5)])
    await queue.defer(lock_token_of(servicebus.receive("keep")))
    servicebus.advance(5)
    (dead,) = servicebus.dead_letters("keep").peek(0, 10)
    assert dead.state is MessageState.ACTIVE
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)


async def test_expired_message_is_not_delivered_without_timer(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("drop").send([message("a", time_to_live_seconds=5)])
    servicebus.clock.moment = servicebus.after(5)
    assert not servicebus.receiver("drop", credit=1).deliveries


async def test_expiry_beyond_the_last_date_is_never(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("keep").send([message("a", time_to_live_seconds=10675199 * 86400)])
    assert servicebus.queue("keep").peek(0, 1)[0].expires_at is None
    await servicebus.restart()
    assert servicebus.bodies("keep") == ["a"]


async def test_due_scheduled_message_moves_to_the_end(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("keep")
    (number,) = await queue.schedule([message("later", scheduled_at=servicebus.after(10))])
    await queue.send([message("now")])
    receiver = servicebus.receiver("keep", credit=5)
    assert (number, receiver.bodies) == (1, ["now"])
    servicebus.advance(10)
    later = receiver.deliveries[1].message
    assert (later.sequence_number, later.enqueue_sequence_number) == (3, 1)
    assert (later.enqueued_at, later.state) == (servicebus.clock.moment, MessageState.ACTIVE)


async def test_scheduled_message_lives_from_its_activation(
    servicebus: RunningBroker,
) -> None:
    due = message("a", scheduled_at=servicebus.after(10), time_to_live_seconds=5)
    await servicebus.queue("drop").send([due])
    servicebus.advance(10)
    servicebus.advance(4)
    assert servicebus.bodies("drop") == ["a"]
    servicebus.advance(1)
    assert servicebus.bodies("drop") == []


async def test_message_scheduled_in_the_past_is_active(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("keep").schedule([message("a", scheduled_at=servicebus.after(-1))])
    assert servicebus.receive("keep").message.state is MessageState.ACTIVE


async def test_cancelling_scheduled_messages_is_all_or_none(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("keep")
    numbers = await queue.schedule([message(scheduled_at=servicebus.after(9)) for _ in range(3)])
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled([*numbers, 99])
    await queue.cancel_scheduled(numbers[:2])
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled(numbers[:1])
    servicebus.advance(9)
    with pytest.raises(MessageNotFound):
        await queue.cancel_scheduled(numbers[2:])


async def test_duplicate_is_dropped(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("once")
    first = await queue.send([message("a", message_id="1"), message("b", message_id="2")])
    again = await queue.send([message("c", message_id="2"), message("d", message_id="3")])
    assert (first, again) == ([1, 2], [2, 3])
    assert servicebus.bodies("once") == ["a", "b", "d"]


async def test_duplicate_within_a_batch_is_dropped(servicebus: RunningBroker) -> None:
    same = [message("a", message_id="1"), message("b", message_id="1")]
    assert await servicebus.queue("once").send(same) == [1, 1]
    assert servicebus.bodies("once") == ["a"]


async def test_messages_without_id_are_no_duplicates(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("once").send([message("a"), message("a")])
    assert servicebus.bodies("once") == ["a", "a"]


async def test_completed_message_has_duplicates_in_the_window(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue("once").send([message("a", message_id="1")])
    await servicebus.queue("once").complete(lock_token_of(servicebus.receive("once")))
    servicebus.advance(19)
    await servicebus.restart()
    await servicebus.queue("once").send([message("b", message_id="1")])
    assert servicebus.bodies("once") == []
    servicebus.advance(1)
    await servicebus.queue("once").send([message("c", message_id="1")])
    assert servicebus.bodies("once") == ["c"]


async def test_reused_id_begins_a_new_window(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("once")
    await queue.send([message("a", message_id="1")])
    servicebus.advance(20)
    await queue.send([message("b", message_id="1")])
    await servicebus.restart()
    await servicebus.queue("once").send(
        [message("c", message_id="2"), message("d", message_id="1")]
    )
    assert servicebus.bodies("once") == ["a", "b", "c"]


async def test_ids_leave_the_database_after_the_window(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue("once")
    await queue.send([message(message_id=f"{at}") for at in range(400)])
    servicebus.advance(20)
    await queue.send([message(message_id="another")])
    await servicebus.restart()
    statements: list[str] = []
    servicebus.broker.transactions.store.connection.set_trace_callback(statements.append)
    await servicebus.queue("once").send([message(message_id="0")])
    assert not any("DELETE FROM sightings" in each for each in statements)


async def test_timer_activates_a_scheduled_message(tmp_path: Path) -> None:
    # Only this test uses the wall clock and the timer.
    broker = await Broker.open(tmp_path / "timed.sqlite", [KEEPING], WallClock())
    arrived: asyncio.Future[MessageDelivery] = asyncio.get_running_loop().create_future()
    broker.queue("keep").subscribe(ReceiveMode.PEEK_LOCK, arrived.set_result).set_credit(1)
    soon = WallClock().now() + timedelta(milliseconds=20)
    await broker.queue("keep").schedule([message("a", scheduled_at=soon)])
    delivery = await asyncio.wait_for(arrived, 30)
    assert delivery.message.enqueued_at >= soon
    await broker.close()
