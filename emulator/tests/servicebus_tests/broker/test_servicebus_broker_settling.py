"""Sending, receiving and the ways to end a lock."""

import asyncio
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest

from emulator.servicebus.broker.errors import (
    ArgumentError,
    EntityNotFound,
    MessageLockLost,
    MessageNotFound,
    MessageSizeExceeded,
    NotAllowed,
    QuotaExceeded,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import World, message, token_of


async def test_messages_arrive_in_the_order_of_their_numbers(world: World) -> None:
    numbers = await world.queue().send([message(body) for body in "abc"])
    inbox = world.receiver(credit=5)
    assert numbers == [1, 2, 3]
    assert inbox.bodies == ["a", "b", "c"]
    assert [each.message.sequence_number for each in inbox.deliveries] == numbers
    assert inbox.subscription.credit == 2


async def test_a_waiting_receiver_gets_what_is_sent_later(world: World) -> None:
    inbox = world.receiver(credit=1)
    assert not inbox.deliveries
    await world.queue().send([message("a"), message("b")])
    assert inbox.bodies == ["a"]


async def test_receivers_take_turns(world: World) -> None:
    first, second = world.receiver(credit=2), world.receiver(credit=2)
    await world.queue().send([message(body) for body in "abcd"])
    assert (first.bodies, second.bodies) == (["a", "c"], ["b", "d"])


async def test_nothing_is_delivered_without_credit_or_after_close(world: World) -> None:
    idle, closed = world.receiver(credit=1), world.receiver(credit=1)
    idle.subscription.set_credit(0)
    closed.subscription.close()
    closed.subscription.set_credit(7)
    await world.queue().send([message("a")])
    assert not idle.deliveries
    assert not closed.deliveries
    assert closed.subscription.credit == 0


async def test_a_locked_message_is_nobody_elses(world: World) -> None:
    await world.queue().send([message("a")])
    delivery = world.receive()
    assert delivery.locked_until == world.after(60)
    assert not world.receiver(credit=1).deliveries


async def test_complete_lets_a_message_go(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    await world.queue().complete(token)
    assert world.bodies() == []
    with pytest.raises(MessageLockLost):
        await world.queue().complete(token)


async def test_abandon_counts_and_puts_the_message_back_in_its_place(world: World) -> None:
    await world.queue().send([message("a"), message("b")])
    await world.queue().abandon(token_of(world.receive()))
    again = world.receive()
    assert again.message.bare == b"a"
    assert again.message.delivery_count == 1


async def test_release_does_not_count(world: World) -> None:
    await world.queue().send([message("a")])
    for _ in range(20):
        delivery = world.receive()
        assert delivery.message.delivery_count == 0
        await world.queue().release(token_of(delivery))


async def test_a_lock_that_expires_counts(world: World) -> None:
    await world.queue().send([message("a")])
    lost = token_of(world.receive())
    world.advance(60)
    with pytest.raises(MessageLockLost):
        await world.queue().complete(lost)
    assert world.receive().message.delivery_count == 1


async def test_a_lock_is_lost_at_its_end_even_if_no_timer_ran(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    world.clock.at = world.after(60)
    with pytest.raises(MessageLockLost):
        await world.queue().complete(token)


async def test_renewal_extends_a_lock(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    world.advance(50)
    assert await world.queue().renew([token]) == [world.after(60)]
    world.advance(50)
    await world.queue().complete(token)


async def test_renewal_of_several_locks_is_all_or_none(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    world.advance(50)
    with pytest.raises(MessageLockLost):
        await world.queue().renew([token, uuid4()])
    world.advance(10)
    assert world.receive().message.delivery_count == 1


async def test_receive_and_delete_leaves_nothing(world: World) -> None:
    await world.queue().send([message("a")])
    delivery = world.receive(mode=ReceiveMode.RECEIVE_AND_DELETE)
    assert (delivery.lock_token, delivery.locked_until) == (None, None)
    await world.restart()
    assert world.bodies() == []


async def test_too_many_failed_deliveries_dead_letter(tmp_path: Path) -> None:
    world = await World.open(tmp_path, QueueSettings("q", max_delivery_count=3))
    await world.queue().send([message("poison")])
    await world.queue().abandon(token_of(world.receive()))
    world.receive()
    world.advance(60)
    assert world.receive().message.delivery_count == 2
    world.advance(60)
    assert world.bodies() == []
    (dead,) = world.dead_letters().peek(0, 10)
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert dead.dead_letter_description == (
        "Message could not be consumed after 3 delivery attempts."
    )
    assert (dead.sequence_number, dead.delivery_count) == (1, 3)
    await world.broker.close()


async def test_dead_letter_moves_with_reason_and_keeps_number_and_time(world: World) -> None:
    await world.queue().send([message("a"), message("b")])
    sent_at = world.clock.at
    world.receive()
    delivery = world.receive()
    world.advance(5)
    await world.queue().dead_letter(token_of(delivery), "Bad", "very")
    (dead,) = world.dead_letters().peek(0, 10)
    assert (dead.dead_letter_reason, dead.dead_letter_description) == ("Bad", "very")
    assert (dead.sequence_number, dead.enqueued_at) == (2, sent_at)
    delivery = world.receive("Q/$deadletterqueue")
    await world.dead_letters().complete(token_of(delivery))
    assert world.bodies("q/$DeadLetterQueue") == []


async def test_a_dead_letter_goes_nowhere_else(world: World) -> None:
    queue, dead = world.queue(), world.dead_letters()
    await queue.send([message("a")])
    await queue.dead_letter(token_of(world.receive()), None, None)
    for _ in range(25):
        await dead.abandon(token_of(world.receive(dead.address)))
    with pytest.raises(NotAllowed):
        await dead.dead_letter(token_of(world.receive(dead.address)), None, None)
    with pytest.raises(NotAllowed):
        await dead.send([message("b")])
    assert world.bodies(dead.address) == ["a"]


async def test_deferred_messages_wait_for_their_number_to_be_named(world: World) -> None:
    queue = world.queue()
    await queue.send([message("a"), message("b")])
    await queue.defer(token_of(world.receive()))
    assert world.receive().message.bare == b"b"
    assert not world.receiver(credit=1).deliveries
    (delivery,) = await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)
    assert delivery.message.state is MessageState.DEFERRED
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)
    await queue.abandon(token_of(delivery))
    (delivery,) = await queue.receive_deferred([1], ReceiveMode.RECEIVE_AND_DELETE)
    assert (delivery.lock_token, delivery.message.delivery_count) == (None, 1)
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1, 2], ReceiveMode.PEEK_LOCK)


async def test_one_missing_number_receives_no_deferred_message(world: World) -> None:
    queue = world.queue()
    await queue.send([message("a")])
    await queue.defer(token_of(world.receive()))
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1, 99], ReceiveMode.RECEIVE_AND_DELETE)
    assert len(await queue.receive_deferred([1, 1], ReceiveMode.RECEIVE_AND_DELETE)) == 1


async def test_peek_shows_every_state_and_locks_nothing(world: World) -> None:
    queue = world.queue()
    await queue.send([message(body) for body in "abc"])
    await queue.schedule([message("d", scheduled_at=world.after(9))])
    await queue.defer(token_of(world.receive()))
    world.receive()
    peeked = queue.peek(0, 10)
    assert [each.bare for each in peeked] == [b"a", b"b", b"c", b"d"]
    assert [each.state for each in peeked] == [
        MessageState.DEFERRED,
        MessageState.ACTIVE,
        MessageState.ACTIVE,
        MessageState.SCHEDULED,
    ]
    assert [each.bare for each in queue.peek(2, 2)] == [b"b", b"c"]
    assert queue.peek(5, 1) == []


async def test_an_answer_to_peek_stays_of_moderate_size(world: World) -> None:
    big = "x" * 200_000
    await world.queue().send([message(big) for _ in range(10)])
    assert len(world.queue().peek(0, 10)) == 5


async def test_counts_tell_the_states_apart(world: World) -> None:
    queue = world.queue()
    await queue.send([message("a") for _ in range(5)])
    await queue.schedule([message("b", scheduled_at=world.after(9))])
    await queue.defer(token_of(world.receive()))
    await queue.dead_letter(token_of(world.receive()), None, None)
    world.receive()
    counts = queue.counts()
    assert (counts.active, counts.deferred, counts.scheduled, counts.dead_letter) == (3, 1, 1, 1)
    assert (counts.total, counts.size_bytes) == (6, 6)


async def test_a_message_over_the_limit_is_refused_and_so_are_those_with_it(world: World) -> None:
    await world.queue().send([message("x" * 262_144)])
    with pytest.raises(MessageSizeExceeded):
        await world.queue().send([message("small"), message("x" * 262_145)])
    assert len(world.bodies()) == 1


async def test_a_full_queue_refuses(tmp_path: Path) -> None:
    world = await World.open(tmp_path, QueueSettings("q", max_size_bytes=10))
    await world.queue().send([message("12345678")])
    with pytest.raises(QuotaExceeded):
        await world.queue().send([message("90a")])
    await world.queue().dead_letter(token_of(world.receive()), None, None)
    with pytest.raises(QuotaExceeded):
        await world.queue().send([message("90a")])
    await world.broker.close()


@pytest.mark.parametrize(
    "refused",
    [
        message(message_id="x" * 129),
        message(message_id="\ud800"),
        message(time_to_live_seconds=-1),
        message(time_to_live_seconds=10675200 * 86400),
        message(scheduled_at=datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
    ],
)
async def test_bad_values_are_refused_with_all_that_was_sent_with_them(
    world: World, refused: IncomingMessage
) -> None:
    with pytest.raises(ArgumentError):
        await world.queue().send([message("good"), refused])
    assert world.bodies() == []


async def test_only_what_has_a_time_can_be_scheduled(world: World) -> None:
    with pytest.raises(ArgumentError):
        await world.queue().schedule([message()])


@pytest.mark.parametrize("reason", ["x" * 4097, "\udfff"])
async def test_a_bad_reason_leaves_the_message_locked(world: World, reason: str) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    for texts in ((reason, None), (None, reason)):
        with pytest.raises(ArgumentError):
            await world.queue().dead_letter(token, *texts)
    await world.queue().complete(token)


async def test_a_message_that_is_born_dead_is_not_delivered(world: World) -> None:
    inbox = world.receiver(credit=1)
    await world.queue().send([message("a", time_to_live_seconds=0)])
    assert not inbox.deliveries
    assert world.queue().counts().total == 0


async def test_addresses(world: World) -> None:
    assert world.queue("Q") is world.queue("q")
    assert world.queue("q/$Transfer/$deadLetterQueue").counts().total == 0
    for unknown in ("", "p", "q/", "q/$DeadLetterQueue/$DeadLetterQueue"):
        with pytest.raises(EntityNotFound):
            world.queue(unknown)


async def test_a_failing_receiver_does_not_stop_others(world: World) -> None:
    def fail(delivery: object) -> None:
        raise ZeroDivisionError

    world.queue().subscribe(ReceiveMode.PEEK_LOCK, fail).set_credit(1)
    inbox = world.receiver(credit=1)
    await world.queue().send([message("a"), message("b")])
    assert inbox.bodies == ["b"]


async def test_callers_of_one_tick_share_one_transaction(world: World) -> None:
    statements: list[str] = []
    world.broker.trace(statements.append)
    await asyncio.gather(*(world.queue().send([message("a")]) for _ in range(50)))
    assert statements.count("COMMIT") == 1


async def test_a_message_that_is_received_and_deleted_at_once_never_meets_the_disk(
    world: World,
) -> None:
    inbox = world.receiver(mode=ReceiveMode.RECEIVE_AND_DELETE, credit=1)
    statements: list[str] = []
    world.broker.trace(statements.append)
    await world.queue().send([message("a")])
    assert inbox.bodies == ["a"]
    assert not any("messages" in each for each in statements)
