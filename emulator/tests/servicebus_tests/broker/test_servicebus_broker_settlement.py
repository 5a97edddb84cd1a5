"""Test sending, receiving and settling messages."""

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
from emulator.servicebus.broker.message import (
    IncomingMessage,
    MessageDelivery,
    MessageState,
    ReceiveMode,
)
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message


async def test_messages_are_delivered_in_order(
    servicebus: RunningBroker,
) -> None:
    numbers = await servicebus.queue().send([message(body) for body in "abc"])
    receiver = servicebus.receiver(credit=5)
    assert numbers == [1, 2, 3]
    assert receiver.bodies == ["a", "b", "c"]
    assert [each.message.sequence_number for each in receiver.deliveries] == numbers
    assert receiver.subscription.credit == 2


async def test_credit_receives_a_later_message(
    servicebus: RunningBroker,
) -> None:
    receiver = servicebus.receiver(credit=1)
    assert not receiver.deliveries
    await servicebus.queue().send([message("a"), message("b")])
    assert receiver.bodies == ["a"]


async def test_two_receivers_get_messages_alternately(
    servicebus: RunningBroker,
) -> None:
    first, second = servicebus.receiver(credit=2), servicebus.receiver(credit=2)
    await servicebus.queue().send([message(body) for body in "abcd"])
    assert (first.bodies, second.bodies) == (["a", "c"], ["b", "d"])


async def test_closed_or_creditless_receiver_gets_nothing(
    servicebus: RunningBroker,
) -> None:
    idle, closed = servicebus.receiver(credit=1), servicebus.receiver(credit=1)
    idle.subscription.set_credit(0)
    closed.subscription.close()
    closed.subscription.set_credit(7)
    await servicebus.queue().send([message("a")])
    assert not idle.deliveries
    assert not closed.deliveries
    assert closed.subscription.credit == 0


async def test_locked_message_is_not_delivered_again(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("a")])
    delivery = servicebus.receive()
    assert delivery.locked_until == servicebus.after(60)
    assert not servicebus.receiver(credit=1).deliveries


async def test_completed_message_is_removed(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    await servicebus.queue().complete(token)
    assert servicebus.bodies() == []
    with pytest.raises(MessageLockLost):
        await servicebus.queue().complete(token)


async def test_abandon_keeps_the_order_and_counts(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a"), message("b")])
    await servicebus.queue().abandon(lock_token_of(servicebus.receive()))
    again = servicebus.receive()
    assert again.message.bare == b"a"
    assert again.message.delivery_count == 1


async def test_release_does_not_count(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    for _ in range(20):
        delivery = servicebus.receive()
        assert delivery.message.delivery_count == 0
        await servicebus.queue().release(lock_token_of(delivery))


async def test_expired_lock_counts_as_failed(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("a")])
    lost = lock_token_of(servicebus.receive())
    servicebus.advance(60)
    with pytest.raises(MessageLockLost):
        await servicebus.queue().complete(lost)
    assert servicebus.receive().message.delivery_count == 1


async def test_lock_is_lost_at_its_expiry_without_a_timer(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    servicebus.clock.moment = servicebus.after(60)
    with pytest.raises(MessageLockLost):
        await servicebus.queue().complete(token)


async def test_renewal_extends_the_lock(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    servicebus.advance(50)
    assert await servicebus.queue().renew([token]) == [servicebus.after(60)]
    servicebus.advance(50)
    await servicebus.queue().complete(token)


async def test_renewal_of_several_locks_is_all_or_none(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    servicebus.advance(50)
    with pytest.raises(MessageLockLost):
        await servicebus.queue().renew([token, uuid4()])
    servicebus.advance(10)
    assert servicebus.receive().message.delivery_count == 1


async def test_receive_and_delete_removes_the_message(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    delivery = servicebus.receive(mode=ReceiveMode.RECEIVE_AND_DELETE)
    assert (delivery.lock_token, delivery.locked_until) == (None, None)
    await servicebus.restart()
    assert servicebus.bodies() == []


@pytest.mark.parametrize("body", ["a", "x" * 100_000])
@pytest.mark.parametrize("is_written", [True, False])
async def test_failed_receive_and_delete_is_redelivered(
    servicebus: RunningBroker, body: str, is_written: bool
) -> None:
    def fail(delivery: MessageDelivery) -> None:
        raise OSError("the receiver cannot take the message")

    receiver = servicebus.queue().subscribe(ReceiveMode.RECEIVE_AND_DELETE, fail)
    if is_written:
        await servicebus.queue().send([message(body)])
    receiver.set_credit(100)
    if not is_written:
        await servicebus.queue().send([message(body)])
    await servicebus.queue().send([message("another message")])
    receiver.close()
    # The broker does not deliver the message again at once, because each delivery may fail.
    assert servicebus.receiver(credit=2).deliveries == []
    await servicebus.restart()
    servicebus.advance(60)
    delivery = servicebus.receive(mode=ReceiveMode.RECEIVE_AND_DELETE)
    assert delivery.message.bare == body.encode()
    assert delivery.message.delivery_count == 1
    assert servicebus.bodies() == ["another message"]
    await servicebus.restart()
    assert servicebus.bodies() == ["another message"]


async def test_failed_receive_and_delete_survives_a_restart(
    servicebus: RunningBroker,
) -> None:
    def fail(delivery: MessageDelivery) -> None:
        raise OSError("the receiver cannot take the message")

    await servicebus.queue().send([message("a")])
    servicebus.queue().subscribe(ReceiveMode.RECEIVE_AND_DELETE, fail).set_credit(1)
    await servicebus.restart()
    assert servicebus.bodies() == ["a"]


async def test_failed_receive_and_delete_is_dead_lettered(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path, QueueSettings("q", max_delivery_count=3))
    tries = 0

    def fail(delivery: MessageDelivery) -> None:
        nonlocal tries
        tries += 1
        raise OSError("the receiver cannot take the message")

    await servicebus.queue().send([message("a")])
    servicebus.queue().subscribe(ReceiveMode.RECEIVE_AND_DELETE, fail).set_credit(100)
    for _ in range(5):
        servicebus.advance(61)
    assert tries == 3
    assert servicebus.bodies() == []
    (dead,) = servicebus.dead_letters().peek(0, 10)
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    await servicebus.broker.close()


async def test_maximum_delivery_count_dead_letters(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path, QueueSettings("q", max_delivery_count=3))
    await servicebus.queue().send([message("poison")])
    await servicebus.queue().abandon(lock_token_of(servicebus.receive()))
    servicebus.receive()
    servicebus.advance(60)
    assert servicebus.receive().message.delivery_count == 2
    servicebus.advance(60)
    assert servicebus.bodies() == []
    (dead,) = servicebus.dead_letters().peek(0, 10)
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert dead.dead_letter_description == (
        "Message could not be consumed after 3 delivery attempts."
    )
    assert (dead.sequence_number, dead.delivery_count) == (1, 3)
    await servicebus.broker.close()


async def test_dead_letter_keeps_number_and_enqueued_time(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a"), message("b")])
    sent_at = servicebus.clock.moment
    servicebus.receive()
    delivery = servicebus.receive()
    servicebus.advance(5)
    await servicebus.queue().dead_letter(lock_token_of(delivery), "Bad", "very")
    (dead,) = servicebus.dead_letters().peek(0, 10)
    assert (dead.dead_letter_reason, dead.dead_letter_description) == ("Bad", "very")
    assert (dead.sequence_number, dead.enqueued_at) == (2, sent_at)
    delivery = servicebus.receive("Q/$deadletterqueue")
    await servicebus.dead_letters().complete(lock_token_of(delivery))
    assert servicebus.bodies("q/$DeadLetterQueue") == []


async def test_dead_letter_cannot_be_dead_lettered(
    servicebus: RunningBroker,
) -> None:
    queue, dead = servicebus.queue(), servicebus.dead_letters()
    await queue.send([message("a")])
    await queue.dead_letter(lock_token_of(servicebus.receive()), None, None)
    for _ in range(25):
        await dead.abandon(lock_token_of(servicebus.receive(dead.address)))
    with pytest.raises(NotAllowed):
        await dead.dead_letter(lock_token_of(servicebus.receive(dead.address)), None, None)
    with pytest.raises(NotAllowed):
        await dead.send([message("b")])
    assert servicebus.bodies(dead.address) == ["a"]


async def test_deferred_message_is_received_only_by_number(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([message("a"), message("b")])
    await queue.defer(lock_token_of(servicebus.receive()))
    assert servicebus.receive().message.bare == b"b"
    assert not servicebus.receiver(credit=1).deliveries
    (delivery,) = await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)
    assert delivery.message.state is MessageState.DEFERRED
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)
    await queue.abandon(lock_token_of(delivery))
    (delivery,) = await queue.receive_deferred([1], ReceiveMode.RECEIVE_AND_DELETE)
    assert (delivery.lock_token, delivery.message.delivery_count) == (None, 1)
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1, 2], ReceiveMode.PEEK_LOCK)


async def test_missing_deferred_message_returns_none(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([message("a")])
    await queue.defer(lock_token_of(servicebus.receive()))
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([1, 99], ReceiveMode.RECEIVE_AND_DELETE)
    assert len(await queue.receive_deferred([1, 1], ReceiveMode.RECEIVE_AND_DELETE)) == 1


async def test_peek_returns_every_state_without_locks(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([message(body) for body in "abc"])
    await queue.schedule([message("d", scheduled_at=servicebus.after(9))])
    await queue.defer(lock_token_of(servicebus.receive()))
    servicebus.receive()
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


async def test_peek_limits_the_total_size(
    servicebus: RunningBroker,
) -> None:
    big = "x" * 200_000
    await servicebus.queue().send([message(big) for _ in range(10)])
    assert len(servicebus.queue().peek(0, 10)) == 5


async def test_counts_have_each_state(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([message("a") for _ in range(5)])
    await queue.schedule([message("b", scheduled_at=servicebus.after(9))])
    await queue.defer(lock_token_of(servicebus.receive()))
    await queue.dead_letter(lock_token_of(servicebus.receive()), None, None)
    servicebus.receive()
    counts = queue.counts()
    assert (counts.active, counts.deferred, counts.scheduled, counts.dead_letter) == (3, 1, 1, 1)
    assert (counts.total, counts.size_bytes) == (6, 6)


async def test_batch_over_the_size_limit_is_refused_whole(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("x" * 262_144)])
    with pytest.raises(MessageSizeExceeded):
        await servicebus.queue().send([message("small"), message("x" * 262_145)])
    assert len(servicebus.bodies()) == 1


async def test_full_queue_refuses_messages(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path, QueueSettings("q", max_size_bytes=10))
    await servicebus.queue().send([message("12345678")])
    with pytest.raises(QuotaExceeded):
        await servicebus.queue().send([message("90a")])
    await servicebus.queue().dead_letter(lock_token_of(servicebus.receive()), None, None)
    with pytest.raises(QuotaExceeded):
        await servicebus.queue().send([message("90a")])
    await servicebus.broker.close()


@pytest.mark.parametrize(
    "refused",
    [
        message(message_id="x" * 129),
        message(message_id="\ud800"),
        message(time_to_live_seconds=-1),
        message(time_to_live_seconds=10675200 * 86400),
        message(scheduled_at=datetime(2026, 1, 1)),  # noqa: DTZ001 - must be refused
    ],
)
async def test_invalid_message_refuses_its_batch(
    servicebus: RunningBroker, refused: IncomingMessage
) -> None:
    with pytest.raises(ArgumentError):
        await servicebus.queue().send([message("good"), refused])
    assert servicebus.bodies() == []


async def test_scheduling_needs_a_time(servicebus: RunningBroker) -> None:
    with pytest.raises(ArgumentError):
        await servicebus.queue().schedule([message()])


@pytest.mark.parametrize("reason", ["x" * 4097, "\udfff"])
async def test_invalid_dead_letter_reason_leaves_the_lock(
    servicebus: RunningBroker, reason: str
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    for texts in ((reason, None), (None, reason)):
        with pytest.raises(ArgumentError):
            await servicebus.queue().dead_letter(token, *texts)
    await servicebus.queue().complete(token)


async def test_time_to_live_of_zero_means_no_delivery(
    servicebus: RunningBroker,
) -> None:
    receiver = servicebus.receiver(credit=1)
    await servicebus.queue().send([message("a", time_to_live_seconds=0)])
    assert not receiver.deliveries
    assert servicebus.queue().counts().total == 0


async def test_addresses_ignore_case(
    servicebus: RunningBroker,
) -> None:
    assert servicebus.queue("Q") is servicebus.queue("q")
    assert servicebus.queue("q/$Transfer/$deadLetterQueue").counts().total == 0
    for unknown in ("", "p", "q/", "q/$DeadLetterQueue/$DeadLetterQueue"):
        with pytest.raises(EntityNotFound):
            servicebus.queue(unknown)


async def test_one_receivers_error_does_not_stop_others(
    servicebus: RunningBroker,
) -> None:
    def fail(delivery: object) -> None:
        raise ZeroDivisionError

    servicebus.queue().subscribe(ReceiveMode.PEEK_LOCK, fail).set_credit(1)
    receiver = servicebus.receiver(credit=1)
    await servicebus.queue().send([message("a"), message("b")])
    assert receiver.bodies == ["b"]


async def test_one_iterations_messages_share_a_transaction(
    servicebus: RunningBroker,
) -> None:
    statements: list[str] = []
    servicebus.broker.transactions.store.connection.set_trace_callback(statements.append)
    await asyncio.gather(*(servicebus.queue().send([message("a")]) for _ in range(50)))
    assert statements.count("COMMIT") == 1


async def test_waiting_receive_and_delete_stores_nothing(
    servicebus: RunningBroker,
) -> None:
    receiver = servicebus.receiver(mode=ReceiveMode.RECEIVE_AND_DELETE, credit=1)
    statements: list[str] = []
    servicebus.broker.transactions.store.connection.set_trace_callback(statements.append)
    await servicebus.queue().send([message("a")])
    assert receiver.bodies == ["a"]
    assert not any("messages" in each for each in statements)
