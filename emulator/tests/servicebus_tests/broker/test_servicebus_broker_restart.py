"""Test which state survives a restart of the broker, and which database files are refused."""

import sqlite3
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.authorization import AccessRight, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import (
    BrokerClosed,
    EntityAlreadyExists,
    EntityNotFound,
    MessageLockLost,
    MessageStoreError,
    SchemaError,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings, QueueStatus
from emulator.servicebus.broker.store import SCHEMA_VERSION
from manual_clock import START, ManualClock
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message


async def test_messages_in_every_state_survive(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    await queue.send([message(body) for body in "abcd"])
    await queue.schedule([message("e", scheduled_at=servicebus.after(9))])
    changes = (("a", b"\x40"), ("é", b"\x54\x01"))
    await queue.defer(lock_token_of(servicebus.receive()), changes)
    await queue.dead_letter(lock_token_of(servicebus.receive()), "Bad", "very", changes)
    await queue.abandon(lock_token_of(servicebus.receive()), changes)
    before = [queue.peek(0, 10), servicebus.dead_letters().peek(0, 10)]
    await servicebus.restart()
    assert [servicebus.queue().peek(0, 10), servicebus.dead_letters().peek(0, 10)] == before
    assert [each.property_changes for each in before[0]] == [changes, changes, (), ()]
    assert [each.state for each in before[0]] == [
        MessageState.DEFERRED,
        MessageState.ACTIVE,
        MessageState.ACTIVE,
        MessageState.SCHEDULED,
    ]


async def test_small_and_large_contents_survive(
    servicebus: RunningBroker,
) -> None:
    sent = [
        IncomingMessage(b"h" * (size > 0), bytes(range(256)), b"x" * size)
        for size in (0, 1, 1743, 1744, 1745, 5000, 200_000)
    ]
    await servicebus.queue().send(sent)
    await servicebus.restart()
    peeked = servicebus.queue().peek(0, 10)
    assert [IncomingMessage(m.header, m.annotations, m.bare) for m in peeked] == sent
    for _ in sent:
        await servicebus.queue().complete(lock_token_of(servicebus.receive()))
    connection = servicebus.broker.transactions.store.connection
    for table in ("messages", "contents"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


async def test_sequence_numbers_continue(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("a"), message("b")])
    await servicebus.queue().complete(lock_token_of(servicebus.receive()))
    await servicebus.queue().complete(lock_token_of(servicebus.receive()))
    await servicebus.restart()
    assert await servicebus.queue().send([message("c")]) == [3]


async def test_message_lock_survives(servicebus: RunningBroker) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    await servicebus.restart()
    assert not servicebus.receiver(credit=1).deliveries
    await servicebus.queue().complete(token)
    assert servicebus.bodies() == []


async def test_renewed_expiry_survives(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    servicebus.advance(50)
    await servicebus.queue().renew([token])
    await servicebus.restart()
    servicebus.advance(50)
    await servicebus.queue().complete(token)


async def test_lock_that_expires_while_down_counts_as_failed(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    token = lock_token_of(servicebus.receive())
    await servicebus.broker.close()
    servicebus.clock.moment = servicebus.after(60)
    servicebus.broker = await Broker.open(
        servicebus.database, servicebus.settings, servicebus.clock
    )
    with pytest.raises(MessageLockLost):
        await servicebus.queue().complete(token)
    assert servicebus.receive().message.delivery_count == 1


async def test_failed_deliveries_count_across_restarts(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path, QueueSettings("q", max_delivery_count=3))
    await servicebus.queue().send([message("poison")])
    for count in range(3):
        assert servicebus.receive().message.delivery_count == count
        await servicebus.restart()
        servicebus.advance(60)
    assert servicebus.bodies("q/$DeadLetterQueue") == ["poison"]
    await servicebus.broker.close()


async def test_due_messages_are_dropped_or_activated(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("dies", time_to_live_seconds=5)])
    await servicebus.queue().schedule([message("starts", scheduled_at=servicebus.after(5))])
    await servicebus.broker.close()
    servicebus.clock.moment = servicebus.after(5)
    servicebus.broker = await Broker.open(
        servicebus.database, servicebus.settings, servicebus.clock
    )
    assert servicebus.receive().message.bare == b"starts"
    assert servicebus.queue().counts().total == 1


async def test_queues_and_settings_survive(
    servicebus: RunningBroker,
) -> None:
    made = QueueSettings("Made", lock_duration=timedelta(seconds=7))
    await servicebus.broker.create_queue(made)
    with pytest.raises(EntityAlreadyExists):
        await servicebus.broker.create_queue(QueueSettings("mADE"))
    await servicebus.queue("made").send([message("a")])
    await servicebus.broker.update_queue(QueueSettings("Made", max_delivery_count=2))
    await servicebus.restart()
    assert [each.address for each in servicebus.broker.queues()] == ["Made", "q"]
    assert servicebus.queue("made").settings.max_delivery_count == 2
    assert servicebus.bodies("made") == ["a"]


async def test_set_queue_creates_or_changes(
    servicebus: RunningBroker,
) -> None:
    await servicebus.broker.set_queue(QueueSettings("made"))
    await servicebus.queue("made").send([message("a")])
    await servicebus.broker.set_queue(QueueSettings("Made", max_delivery_count=2))
    await servicebus.restart()
    assert servicebus.queue("made").settings.max_delivery_count == 2
    assert servicebus.bodies("made") == ["a"]
    with pytest.raises(SchemaError):
        await servicebus.broker.set_queue(QueueSettings("made", requires_session=True))


async def test_new_settings_apply_to_an_existing_queue(
    servicebus: RunningBroker,
) -> None:
    await servicebus.queue().send([message("a")])
    servicebus.settings = [QueueSettings("q", lock_duration=timedelta(seconds=7))]
    await servicebus.restart()
    assert servicebus.receive().locked_until == servicebus.after(7)


async def test_deletion_of_a_queue_deletes_its_messages(
    servicebus: RunningBroker,
) -> None:
    await servicebus.broker.create_queue(QueueSettings("other"))
    other = servicebus.queue("other")
    receiver = servicebus.receiver("other", credit=2)
    await other.send([message("a"), message("x" * 5000), message("c", time_to_live_seconds=5)])
    await other.dead_letter(lock_token_of(receiver.deliveries[0]), None, None)
    await servicebus.queue().send([message("stays")])
    await servicebus.broker.delete_queue("OTHER")
    servicebus.advance(100)
    for use in (other.send([]), other.complete(lock_token_of(receiver.deliveries[1]))):
        with pytest.raises(EntityNotFound):
            await use
    for address in ("other", "other/$DeadLetterQueue"):
        with pytest.raises(EntityNotFound):
            servicebus.queue(address)
    with pytest.raises(EntityNotFound):
        other.subscribe(ReceiveMode.PEEK_LOCK, receiver.deliveries.append)
    await servicebus.restart()
    await servicebus.broker.create_queue(QueueSettings("other"))
    assert servicebus.bodies("other") == []
    assert await servicebus.queue("other").send([message("new")]) == [1]
    assert servicebus.bodies() == ["stays"]


async def test_closed_broker_raises_broker_closed(
    servicebus: RunningBroker,
) -> None:
    queue = servicebus.queue()
    subscription = queue.subscribe(ReceiveMode.PEEK_LOCK, print)
    await servicebus.broker.close()
    await servicebus.broker.close()
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


async def test_another_schema_version_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "broker.sqlite"
    broker = await Broker.open(path, [], ManualClock())
    await broker.close()
    _make_database(path, "PRAGMA user_version=99")
    with pytest.raises(
        SchemaError, match="has schema version 99; this program supports versions 1 to 5"
    ):
        await Broker.open(path, [], ManualClock())


# What undoes the changes of the schema versions 4 and 5.
_WITHOUT_SESSIONS = (
    "ALTER TABLE messages DROP COLUMN session_id",
    "DROP TABLE message_sessions",
    "ALTER TABLE queues DROP COLUMN created_at_us",
    "ALTER TABLE queues DROP COLUMN updated_at_us",
)


async def test_upgrade_from_version_1_keeps_the_messages(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    await servicebus.queue().send([message("small"), message("x" * 5000)])
    before = servicebus.queue().peek(0, 10)
    await servicebus.broker.close()
    _make_database(
        servicebus.database,
        *_WITHOUT_SESSIONS,
        "ALTER TABLE messages DROP COLUMN property_changes",
        "DROP TABLE authorization_rules",
        "PRAGMA user_version=1",
    )
    await servicebus.restart()
    assert servicebus.queue().peek(0, 10) == before
    changes = (("why", b"\xa1\x01x"),)
    await servicebus.queue().abandon(lock_token_of(servicebus.receive()), changes)
    await servicebus.restart()
    assert servicebus.queue().peek(0, 1)[0].property_changes == changes


async def test_status_and_policies_survive(
    tmp_path: Path,
) -> None:
    send = frozenset({AccessRight.SEND})
    own = AuthorizationRule("own", send, "one", "two")
    settings = QueueSettings("a/b", status=QueueStatus.DISABLED, authorization_rules=(own,))
    servicebus = await RunningBroker.open(tmp_path)
    await servicebus.broker.create_queue(settings)
    kept, dropped = (AuthorizationRule(name, send, "key") for name in ("kept", "dropped"))
    for rule in (kept, dropped, replace(kept, primary_key="changed")):
        await servicebus.broker.save_authorization_rule(rule)
    await servicebus.broker.delete_authorization_rule("dropped")
    await servicebus.restart()
    assert servicebus.broker.queue("a/b").settings == settings
    assert servicebus.broker.authorization_rules == {"kept": replace(kept, primary_key="changed")}


async def test_upgraded_version_2_stores_policies(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    await servicebus.broker.close()
    _make_database(
        servicebus.database,
        *_WITHOUT_SESSIONS,
        "UPDATE queues SET settings=json_remove(settings, '$.status', '$.authorization_rules')",
        "DROP TABLE authorization_rules",
        "PRAGMA user_version=2",
    )
    await servicebus.restart()
    assert servicebus.broker.queue("q").settings == QueueSettings("q")
    # An older queue was created when its database was upgraded, by the system's clock.
    assert servicebus.broker.queue("q").created_at > START
    rule = AuthorizationRule("new", frozenset({AccessRight.SEND}), "key")
    await servicebus.broker.save_authorization_rule(rule)
    await servicebus.restart()
    assert servicebus.broker.authorization_rules == {"new": rule}


async def test_failed_upgrade_raises_message_store_error(
    tmp_path: Path,
) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    await servicebus.broker.close()
    _make_database(servicebus.database, "PRAGMA user_version=2")  # the new table exists already
    with pytest.raises(MessageStoreError, match=r"cannot be written: table .* already exists"):
        await servicebus.restart()
    _make_database(servicebus.database, f"PRAGMA user_version={SCHEMA_VERSION}")
    await servicebus.restart()


async def test_find_owner_returns_the_longest_match(
    tmp_path: Path,
) -> None:
    names = ("a", "a/b", "a/b/c")
    servicebus = await RunningBroker.open(tmp_path, *(QueueSettings(name) for name in names))
    for path, name in (
        ("/A/b/$management", "a/b"),
        ("a/b/c/$DeadLetterQueue/$management", "a/b/c"),
        ("a/$Transfer/$DeadLetterQueue", "a"),
        ("a", "a"),
    ):
        owner = servicebus.broker.find_owner(path)
        assert owner is not None
        assert owner.address == name
    for path in ("", "/", "b", "ab/c", "a/bc", "$cbs", "x" * 5000, "/" * 5000):
        assert servicebus.broker.find_owner(path) is None


async def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    _make_database(path, "CREATE TABLE precious (value)")
    with pytest.raises(SchemaError, match="is a database of another program"):
        await Broker.open(path, [], ManualClock())


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database\n" * 100)
    with pytest.raises(SchemaError, match="cannot be read as an SQLite database"):
        await Broker.open(path, [], ManualClock())


async def test_database_in_use_is_refused(
    servicebus: RunningBroker,
) -> None:
    with pytest.raises(SchemaError, match="is in use by another process"):
        await Broker.open(servicebus.database, [], ManualClock())


async def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be opened"):
        await Broker.open(tmp_path / "absent" / "broker.sqlite", [], ManualClock())


async def test_damaged_database_raises_schema_error(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path)
    await servicebus.queue().send([message("x" * 1500) for _ in range(200)])
    await servicebus.broker.close()
    with servicebus.database.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 200_000)
    with pytest.raises(SchemaError, match="cannot be read"):
        await Broker.open(servicebus.database, [], ManualClock())
