"""Test message sessions of the broker: exclusive locks, order, expiry, state, restarts."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import (
    ArgumentError,
    EntityNotFound,
    MessageNotFound,
    MessageSizeExceeded,
    MessageStoreError,
    NotAllowed,
    SchemaError,
    SessionAlreadyLocked,
    SessionLockLost,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageDelivery, ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.settings import QueueSettings
from manual_clock import ManualClock
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message

LOCK_SECONDS = 30
SETTINGS = QueueSettings(
    "q",
    lock_duration=timedelta(seconds=LOCK_SECONDS),
    max_delivery_count=3,
    requires_session=True,
)


@pytest.fixture
async def servicebus(tmp_path: Path) -> RunningBroker:
    """A broker with the queue `q`, which requires sessions."""
    return await RunningBroker.open(tmp_path, SETTINGS)


def messages(session_id: str, bodies: str) -> list[IncomingMessage]:
    """Return one message of the session for each letter of `bodies`."""
    return [message(body, session_id=session_id) for body in bodies]


def receive(
    servicebus: RunningBroker, lock: MessageSessionLock, credit: int = 10
) -> list[MessageDelivery]:
    """Receive at most `credit` ready messages of a session, and close the receiver."""
    receiver = servicebus.receiver(credit=credit, session_lock=lock)
    receiver.subscription.close()
    return receiver.deliveries


def bodies(deliveries: list[MessageDelivery]) -> str:
    return "".join(each.message.bare.decode() for each in deliveries)


async def test_receiver_gets_its_sessions_messages_in_order(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    for one, two in zip("abc", "xyz", strict=True):
        await queue.send([*messages("one", one), *messages("two", two)])
    assert bodies(receive(servicebus, queue.accept_session("two"))) == "xyz"
    assert bodies(receive(servicebus, queue.accept_session("one"))) == "abc"


async def test_message_has_lock_token_but_no_expiry(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send(messages("s", "a"))
    lock = servicebus.queue().accept_session("s")
    (delivery,) = receive(servicebus, lock)
    assert delivery.locked_until is None
    with pytest.raises(NotAllowed, match="renew the lock on the session"):
        await servicebus.queue().renew([lock_token_of(delivery)])


async def test_locked_session_cannot_be_locked(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    lock = queue.accept_session("s")
    with pytest.raises(SessionAlreadyLocked, match="The requested session 's' cannot be accepted"):
        queue.accept_session("s")
    queue.accept_session("S")  # the ids of sessions are case-sensitive
    queue.release_session(lock)
    assert queue.accept_session("s").is_valid(servicebus.clock.moment)


async def test_only_the_lock_holder_gets_messages(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    one = servicebus.receiver(credit=5, session_lock=queue.accept_session("one"))
    two = servicebus.receiver(credit=5, session_lock=queue.accept_session("two"))
    await queue.send([*messages("two", "a"), *messages("one", "b"), *messages("three", "c")])
    assert (one.bodies, two.bodies) == (["b"], ["a"])


async def test_abandoned_message_comes_before_later_ones(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "abc"))
    lock = queue.accept_session("s")
    (first,) = receive(servicebus, lock, credit=1)
    await queue.abandon(lock_token_of(first))
    again = receive(servicebus, lock)
    assert bodies(again) == "abc"
    assert [each.message.delivery_count for each in again] == [1, 0, 0]


async def test_release_keeps_order_and_delivery_counts(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "abc"))
    lock = queue.accept_session("s")
    await queue.complete(lock_token_of(receive(servicebus, lock)[1]))
    queue.release_session(lock)
    again = receive(servicebus, queue.accept_session("s"))
    assert bodies(again) == "ac"
    assert [each.message.delivery_count for each in again] == [0, 0]


async def test_expiry_counts_deliveries_and_tells_receiver(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "ab"))
    lock = queue.accept_session("s")
    lost: list[str] = []
    lock.on_lost = lambda: lost.append("s")
    token = lock_token_of(receive(servicebus, lock)[0])
    servicebus.advance(LOCK_SECONDS - 1)
    assert not lost
    servicebus.advance(1)
    await asyncio.sleep(0)
    assert lost == ["s"]
    with pytest.raises(SessionLockLost, match="Accept a new MessageSession"):
        queue.renew_session_lock(lock)
    with pytest.raises(SessionLockLost):
        queue.check_session_lock(lock)
    again = receive(servicebus, queue.accept_session("s"))
    assert [each.message.delivery_count for each in again] == [1, 1]
    assert lock_token_of(again[0]) != token


async def test_renewed_lock_keeps_messages_locked(servicebus: RunningBroker) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    lock = queue.accept_session("s")
    (delivery,) = receive(servicebus, lock)
    for _ in range(3):
        servicebus.advance(LOCK_SECONDS - 1)
        assert queue.renew_session_lock(lock) == servicebus.after(LOCK_SECONDS)
    await queue.complete(lock_token_of(delivery))
    assert servicebus.bodies() == []


async def test_expiry_ends_settlement_even_if_unwritten(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    lock = queue.accept_session("s")
    (delivery,) = receive(servicebus, lock)
    with servicebus.failing_writes():
        with pytest.raises(MessageStoreError):
            await queue.send(messages("s", "b"))
        servicebus.clock.moment = servicebus.after(LOCK_SECONDS)
        with pytest.raises(SessionLockLost):
            await queue.complete(lock_token_of(delivery))
        with pytest.raises(SessionAlreadyLocked):  # the messages could not be unlocked
            queue.accept_session("s")
    servicebus.retry_write()
    (again,) = receive(servicebus, queue.accept_session("s"))
    assert again.message.delivery_count == 1


async def test_release_during_failed_writes_unlocks_later(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    lock = queue.accept_session("s")
    receive(servicebus, lock)
    with servicebus.failing_writes():
        queue.release_session(lock)
        with pytest.raises(MessageStoreError):
            await queue.send(messages("s", "b"))
    await queue.send(messages("s", "c"))
    servicebus.broker.transactions.tick()
    assert bodies(receive(servicebus, queue.accept_session("s"))) == "ac"


async def test_lock_expires_without_any_operation(
    tmp_path: Path,
) -> None:
    settings = QueueSettings("q", lock_duration=timedelta(milliseconds=20), requires_session=True)
    broker = await Broker.open(tmp_path / "broker.sqlite", [settings], WallClock())
    lost = asyncio.Event()
    broker.queue("q").accept_session("s").on_lost = lost.set
    await asyncio.wait_for(lost.wait(), timeout=30)
    await broker.close()


async def test_too_many_expiries_dead_letter_a_message(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    for _ in range(SETTINGS.max_delivery_count):
        receive(servicebus, queue.accept_session("s"))
        servicebus.advance(LOCK_SECONDS)
    (dead,) = servicebus.dead_letters().peek(0, 10)
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    # The dead-letter queue needs no session.
    delivery = servicebus.receive("q/$DeadLetterQueue")
    await servicebus.dead_letters().complete(lock_token_of(delivery))
    assert servicebus.queue().counts().total == 0


async def test_next_session_has_the_oldest_ready_message(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([each for id_ in "abc" for each in messages(id_, "1")])
    queue.accept_session("a")
    accepted: list[str] = []

    def request() -> None:
        queue.request_session(lambda lock: accepted.append(lock.session_id))

    request()
    request()
    servicebus.broker.transactions.tick()
    assert accepted == ["b", "c"]
    request()
    servicebus.broker.transactions.tick()
    assert accepted == ["b", "c"]
    await queue.send(messages("d", "1"))
    assert accepted == ["b", "c", "d"]


async def test_waiting_receiver_gets_a_released_session(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    lock = queue.accept_session("s")
    accepted: list[MessageSessionLock] = []
    queue.request_session(accepted.append)
    queue.request_session(accepted.append)
    queue.release_session(lock)
    servicebus.broker.transactions.tick()
    assert len(accepted) == 1
    servicebus.advance(LOCK_SECONDS)
    assert len(accepted) == 2
    assert accepted[1].until == servicebus.after(LOCK_SECONDS)


async def test_cancelled_request_gets_no_session(servicebus: RunningBroker) -> None:
    queue = servicebus.queue()
    accepted: list[MessageSessionLock] = []
    queue.request_session(accepted.append).cancel()
    await queue.send(messages("s", "a"))
    assert not accepted
    queue.accept_session("s")


async def test_queue_with_sessions_needs_session_ids(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    with pytest.raises(NotAllowed, match="The SessionId was not set on a message"):
        await queue.send([*messages("s", "a"), message("no session")])
    with pytest.raises(ArgumentError, match="a session id must have at most 128 characters"):
        await queue.send(messages("s" * 129, "a"))
    with pytest.raises(ArgumentError, match="not valid Unicode"):
        await queue.send(messages("\ud800", "a"))
    assert servicebus.bodies() == []
    with pytest.raises(NotAllowed, match="create a non-sessionful message receiver"):
        servicebus.receiver()
    with pytest.raises(NotAllowed, match="create a non-sessionful message receiver"):
        await queue.receive_deferred([1], ReceiveMode.PEEK_LOCK)


async def test_queue_without_sessions_refuses_receivers(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    text = "A sessionful message receiver cannot be created"
    await servicebus.queue().send(messages("s", "a"))  # the session id does not matter
    for address in ("q", "q/$DeadLetterQueue"):
        with pytest.raises(NotAllowed, match=text):
            servicebus.queue(address).accept_session("s")
        with pytest.raises(NotAllowed, match=text):
            servicebus.queue(address).request_session(lambda _: None)
        with pytest.raises(NotAllowed, match=text):
            servicebus.queue(address).session_ids()
    assert servicebus.receive().message.bare == b"a"


async def test_deferred_message_needs_the_sessions_lock(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    (number, *_) = await queue.send(messages("s", "ab"))
    lock, other = queue.accept_session("s"), queue.accept_session("other")
    await queue.defer(lock_token_of(receive(servicebus, lock, credit=1)[0]))
    with pytest.raises(MessageNotFound):
        await queue.receive_deferred([number], ReceiveMode.PEEK_LOCK, other)
    (deferred,) = await queue.receive_deferred([number], ReceiveMode.PEEK_LOCK, lock)
    assert deferred.locked_until is None
    queue.release_session(lock)
    lock = queue.accept_session("s")
    assert bodies(receive(servicebus, lock)) == "b"
    (again,) = await queue.receive_deferred([number], ReceiveMode.PEEK_LOCK, lock)
    await queue.complete(lock_token_of(again))
    servicebus.advance(LOCK_SECONDS)
    with pytest.raises(SessionLockLost):
        await queue.receive_deferred([number], ReceiveMode.PEEK_LOCK, lock)


async def test_scheduled_message_reaches_its_sessions_receiver(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    receiver = servicebus.receiver(credit=5, session_lock=queue.accept_session("s"))
    await queue.schedule([message("a", session_id="s", scheduled_at=servicebus.after(9))])
    servicebus.advance(8)
    assert receiver.bodies == []
    servicebus.advance(1)
    assert receiver.bodies == ["a"]


async def test_duplicates_are_detected(tmp_path: Path) -> None:
    window = timedelta(minutes=1)
    servicebus = await RunningBroker.open(
        tmp_path, QueueSettings("q", requires_session=True, duplicate_detection_window=window)
    )
    for _ in range(2):
        await servicebus.queue().send([message("a", message_id="1", session_id="s")])
    assert servicebus.bodies() == ["a"]


async def test_peek_can_be_limited_to_one_session(servicebus: RunningBroker) -> None:
    queue = servicebus.queue()
    await queue.send([*messages("one", "a"), *messages("two", "b"), *messages("one", "c")])
    assert [each.bare for each in queue.peek(0, 10, "one")] == [b"a", b"c"]
    assert [each.bare for each in queue.peek(2, 1, "one")] == [b"c"]
    assert [each.bare for each in queue.peek(0, 10)] == [b"a", b"b", b"c"]


async def test_receive_and_delete_keeps_the_order(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "abc"))
    lock = queue.accept_session("s")
    receiver = servicebus.receiver(mode=ReceiveMode.RECEIVE_AND_DELETE, credit=2, session_lock=lock)
    assert receiver.bodies == ["a", "b"]
    assert servicebus.bodies() == ["c"]


async def test_state_without_messages_survives_a_restart(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    lock = queue.accept_session("s")
    assert queue.session_state(lock) is None
    await queue.set_session_state(lock, b"one")
    await queue.set_session_state(lock, b"two")
    await servicebus.restart()
    queue = servicebus.queue()
    lock = queue.accept_session("s")
    assert queue.session_state(lock) == b"two"
    assert queue.session_state(queue.accept_session("other")) is None
    await queue.set_session_state(lock, None)
    assert queue.session_state(lock) is None
    assert queue.session_ids() == []


async def test_state_needs_the_lock_and_256_kib_at_most(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    lock = queue.accept_session("s")
    await queue.set_session_state(lock, b"x" * 256 * 1024)
    with pytest.raises(MessageSizeExceeded, match="the session state has 262145 bytes"):
        await queue.set_session_state(lock, b"x" * (256 * 1024 + 1))
    servicebus.advance(LOCK_SECONDS)
    with pytest.raises(SessionLockLost):
        await queue.set_session_state(lock, b"late")
    with pytest.raises(SessionLockLost):
        queue.session_state(lock)


async def test_unwritten_state_keeps_the_old_one(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    lock = queue.accept_session("s")
    await queue.set_session_state(lock, b"old")
    with servicebus.failing_writes(), pytest.raises(MessageStoreError):
        await queue.set_session_state(lock, b"new")
    servicebus.retry_write()
    await queue.send(messages("s", "a"))
    assert queue.session_state(lock) == b"old"


async def test_list_has_active_messages_or_a_state(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([*messages("ready", "a"), *messages("locked", "b"), *messages("gone", "c")])
    receive(servicebus, queue.accept_session("locked"))
    gone = queue.accept_session("gone")
    await queue.complete(lock_token_of(receive(servicebus, gone)[0]))
    await queue.set_session_state(queue.accept_session("early"), b"1")
    servicebus.advance(5)
    before = servicebus.clock.moment
    servicebus.advance(5)
    await queue.set_session_state(queue.accept_session("late"), b"2")
    assert queue.session_ids() == ["early", "late", "locked", "ready"]
    assert queue.session_ids(updated_after=before) == ["late"]


async def test_restart_releases_sessions_and_keeps_counts(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "abc"))
    lock = queue.accept_session("s")
    delivery, *_ = receive(servicebus, lock)
    await queue.complete(lock_token_of(delivery))
    await servicebus.restart()
    again = receive(servicebus, servicebus.queue().accept_session("s"))
    assert bodies(again) == "bc"
    assert [each.message.delivery_count for each in again] == [0, 0]


async def test_deletion_ends_states_and_locks(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send(messages("s", "a"))
    lock = queue.accept_session("s")
    receive(servicebus, lock)
    await queue.set_session_state(lock, b"old")
    await servicebus.broker.delete_queue("q")
    with pytest.raises(EntityNotFound):
        queue.renew_session_lock(lock)
    queue.release_session(lock)
    servicebus.advance(LOCK_SECONDS)
    new = await servicebus.broker.create_queue(SETTINGS)
    assert new.session_state(new.accept_session("s")) is None


async def test_changed_requires_session_is_refused_at_the_start(
    servicebus: RunningBroker,
) -> None:
    await servicebus.broker.close()
    with pytest.raises(SchemaError, match="queue 'q': RequiresSession cannot be changed"):
        await Broker.open(servicebus.database, [QueueSettings("q")], ManualClock())
    await servicebus.restart()
