"""What a restart keeps, and which databases are refused."""

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import (
    BrokerClosed,
    EntityAlreadyExists,
    EntityNotFound,
    MessageLockLost,
    SchemaError,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import HeldClock, World, message, token_of


async def test_messages_of_every_state_come_back_as_they_were(world: World) -> None:
    queue = world.queue()
    await queue.send([message(body) for body in "abcd"])
    await queue.schedule([message("e", scheduled_at=world.after(9))])
    await queue.defer(token_of(world.receive()))
    await queue.dead_letter(token_of(world.receive()), "Bad", "very")
    await queue.abandon(token_of(world.receive()))
    before = [queue.peek(0, 10), world.dead_letters().peek(0, 10)]
    await world.restart()
    assert [world.queue().peek(0, 10), world.dead_letters().peek(0, 10)] == before
    assert [each.state for each in before[0]] == [
        MessageState.DEFERRED,
        MessageState.ACTIVE,
        MessageState.ACTIVE,
        MessageState.SCHEDULED,
    ]


async def test_large_and_small_contents_come_back_to_the_byte(world: World) -> None:
    sent = [
        IncomingMessage(b"h" * (size > 0), bytes(range(256)), b"x" * size)
        for size in (0, 1, 1743, 1744, 1745, 5000, 200_000)
    ]
    await world.queue().send(sent)
    await world.restart()
    peeked = world.queue().peek(0, 10)
    assert [IncomingMessage(m.header, m.annotations, m.bare) for m in peeked] == sent
    for _ in sent:
        await world.queue().complete(token_of(world.receive()))
    connection = world.broker._transactions.store._connection
    for table in ("messages", "contents"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_sequence_numbers_go_on(world: World) -> None:
    await world.queue().send([message("a"), message("b")])
    await world.queue().complete(token_of(world.receive()))
    await world.queue().complete(token_of(world.receive()))
    await world.restart()
    assert await world.queue().send([message("c")]) == [3]


async def test_a_lock_outlives_the_broker(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    await world.restart()
    assert not world.receiver(credit=1).deliveries
    await world.queue().complete(token)
    assert world.bodies() == []


async def test_a_renewed_lock_outlives_the_broker(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    world.advance(50)
    await world.queue().renew([token])
    await world.restart()
    world.advance(50)
    await world.queue().complete(token)


async def test_a_lock_that_expired_while_the_broker_was_down_counts(world: World) -> None:
    await world.queue().send([message("a")])
    token = token_of(world.receive())
    await world.broker.close()
    world.clock.at = world.after(60)
    world.broker = await Broker.open(world.database, world.settings, world.clock)
    with pytest.raises(MessageLockLost):
        await world.queue().complete(token)
    assert world.receive().message.delivery_count == 1


async def test_a_message_that_fails_across_restarts_is_dead_lettered(tmp_path: Path) -> None:
    world = await World.open(tmp_path, QueueSettings("q", max_delivery_count=3))
    await world.queue().send([message("poison")])
    for count in range(3):
        assert world.receive().message.delivery_count == count
        await world.restart()
        world.advance(60)
    assert world.bodies("q/$DeadLetterQueue") == ["poison"]
    await world.broker.close()


async def test_what_fell_due_while_the_broker_was_down_is_done_at_its_start(world: World) -> None:
    await world.queue().send([message("dies", time_to_live_seconds=5)])
    await world.queue().schedule([message("starts", scheduled_at=world.after(5))])
    await world.broker.close()
    world.clock.at = world.after(5)
    world.broker = await Broker.open(world.database, world.settings, world.clock)
    assert world.receive().message.bare == b"starts"
    assert world.queue().counts().total == 1


async def test_queues_made_by_hand_and_changed_settings_are_kept(world: World) -> None:
    made = QueueSettings("Made", lock_duration=timedelta(seconds=7))
    await world.broker.create_queue(made)
    with pytest.raises(EntityAlreadyExists):
        await world.broker.create_queue(QueueSettings("mADE"))
    await world.queue("made").send([message("a")])
    await world.broker.update_queue(QueueSettings("Made", max_delivery_count=2))
    await world.restart()
    assert [each.address for each in world.broker.queues()] == ["Made", "q"]
    assert world.queue("made").settings.max_delivery_count == 2
    assert world.bodies("made") == ["a"]


async def test_the_configuration_changes_a_known_queue(world: World) -> None:
    await world.queue().send([message("a")])
    world.settings = [QueueSettings("q", lock_duration=timedelta(seconds=7))]
    await world.restart()
    assert world.receive().locked_until == world.after(7)


async def test_a_deleted_queue_is_gone_with_everything_in_it(world: World) -> None:
    await world.broker.create_queue(QueueSettings("other"))
    other = world.queue("other")
    inbox = world.receiver("other", credit=2)
    await other.send([message("a"), message("x" * 5000), message("c", time_to_live_seconds=5)])
    await other.dead_letter(token_of(inbox.deliveries[0]), None, None)
    await world.queue().send([message("stays")])
    await world.broker.delete_queue("OTHER")
    world.advance(100)
    for use in (other.send([]), other.complete(token_of(inbox.deliveries[1]))):
        with pytest.raises(EntityNotFound):
            await use
    for address in ("other", "other/$DeadLetterQueue"):
        with pytest.raises(EntityNotFound):
            world.queue(address)
    with pytest.raises(EntityNotFound):
        other.subscribe(ReceiveMode.PEEK_LOCK, inbox.deliveries.append)
    await world.restart()
    await world.broker.create_queue(QueueSettings("other"))
    assert world.bodies("other") == []
    assert await world.queue("other").send([message("new")]) == [1]
    assert world.bodies() == ["stays"]


async def test_after_close_everything_is_refused(world: World) -> None:
    queue = world.queue()
    subscription = queue.subscribe(ReceiveMode.PEEK_LOCK, print)
    await world.broker.close()
    await world.broker.close()
    subscription.set_credit(1)
    with pytest.raises(BrokerClosed):
        await queue.send([message("a")])
    with pytest.raises(BrokerClosed):
        queue.counts()


def _make_database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def test_a_database_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite"
    broker = await Broker.open(path, [], HeldClock())
    await broker.close()
    _make_database(path, "PRAGMA user_version=99")
    with pytest.raises(SchemaError, match="has schema version 99; this broker reads 1 only"):
        await Broker.open(path, [], HeldClock())


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    _make_database(path, "CREATE TABLE precious (value)")
    with pytest.raises(SchemaError, match="is a database of another program"):
        await Broker.open(path, [], HeldClock())


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(SchemaError, match="cannot be read as a database"):
        await Broker.open(path, [], HeldClock())


async def test_a_database_belongs_to_one_broker_at_a_time(world: World) -> None:
    with pytest.raises(SchemaError, match="is in use by another process"):
        await Broker.open(world.database, [], HeldClock())


async def test_a_folder_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be opened"):
        await Broker.open(tmp_path / "absent" / "broker.sqlite", [], HeldClock())


async def test_a_damaged_database_is_refused_at_the_start(tmp_path: Path) -> None:
    world = await World.open(tmp_path)
    await world.queue().send([message("x" * 1500) for _ in range(200)])
    await world.broker.close()
    with world.database.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 200_000)
    with pytest.raises(SchemaError, match="cannot be read"):
        await Broker.open(world.database, [], HeldClock())
