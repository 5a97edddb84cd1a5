"""Tests of the queues, the leases and the selection of messages in the azure-storage engine."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from emulator.functions.durable.azure_storage import queues
from emulator.functions.durable.azure_storage.database import Database
from emulator.functions.durable.azure_storage.episodes import LoadedInstance, select_messages
from emulator.functions.durable.azure_storage.leases import PartitionLeases
from emulator.functions.durable.azure_storage.queues import QueueMessage, find_partition
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import Status, TaskMessage
from emulator.functions.durable.shim import Shim

PARTITION = find_partition("i")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database(tmp_path / "task-hub.db")
    await made.open()
    yield made
    await made.close()


def instance(status: Status, next_task: int = 0) -> LoadedInstance:
    """Return an instance with this status, whose next task gets the id `next_task`.

    An instance with the status Pending has run no episode. Any other instance has run one episode.
    """
    episode_count = 0 if status is Status.PENDING else 1
    shim = Shim(next_task=next_task)
    return LoadedInstance(
        *("i", "e", "job", None, status, None, 0, 0),
        episode_count=episode_count,
        shim=shim,
        etag=("e", episode_count),
    )


def message(
    kind: EventType, task: int | None = None, execution: str | None = None, count: int = 1
) -> QueueMessage:
    return QueueMessage(
        kind, "", task, execution, 1, instance_id="i", partition=PARTITION, dequeue_count=count
    )


# Selection


@pytest.mark.parametrize(
    ("loaded", "dequeued", "reason"),
    [
        (None, message(EventType.EVENT_RAISED), "No such instance"),
        (instance(Status.PENDING), message(EventType.EVENT_RAISED), "No such instance"),
        (instance(Status.PENDING), message(EventType.TASK_COMPLETED, 0, "e"), "early"),
        (
            instance(Status.PENDING),
            message(EventType.TASK_COMPLETED, 0, "e", count=6),
            "No such instance",
        ),
        (instance(Status.RUNNING, 1), message(EventType.TASK_COMPLETED, 0, "e"), None),
        (instance(Status.RUNNING, 1), message(EventType.TASK_COMPLETED, 1, "e"), "early"),
        (
            instance(Status.RUNNING, 1),
            message(EventType.TASK_COMPLETED, 0, "former"),
            "It belongs to another execution",
        ),
        (
            instance(Status.RUNNING, 1),
            message(EventType.TIMER_FIRED, 0, "e"),
            "Its timer was canceled",
        ),
        (instance(Status.RUNNING), message(EventType.EVENT_RAISED), None),
        (instance(Status.RUNNING), message(EventType.EXECUTION_STARTED, None, "e"), "repeated"),
        (instance(Status.FAILED), message(EventType.EVENT_RAISED), "Instance is Failed"),
    ],
)
def test_state_decides_what_becomes_of_a_message(
    loaded: LoadedInstance | None, dequeued: QueueMessage, reason: str | None
) -> None:
    result = select_messages(loaded, [dequeued])
    assert bool(result.not_taken) is (reason is not None)
    assert (result.early == [dequeued]) is (reason == "early")
    assert (result.repeated_starts == [dequeued]) is (reason == "repeated")
    if reason not in {None, "early", "repeated"}:
        assert list(result.discarded) == [reason]


# Queues


async def test_message_returns_after_the_visibility_timeout(
    database: Database,
) -> None:
    sql, arguments = queues.send("i", TaskMessage(EventType.EVENT_RAISED, "{}"), 10)
    await database.transact(lambda connection: connection.execute(sql, arguments))

    async def dequeue(now: int) -> list[QueueMessage]:
        return await database.transact(lambda c: queues.dequeue(c, PARTITION, now, now + 60))

    assert await dequeue(9) == []
    (first,) = await dequeue(10)
    assert await dequeue(69) == []
    (second,) = await dequeue(70)
    assert (second.sequence, second.dequeue_count) == (first.sequence, 2)


async def test_message_of_another_host_cannot_be_changed(
    database: Database,
) -> None:
    sql, arguments = queues.send("i", TaskMessage(EventType.EVENT_RAISED, "{}"), 0)

    def run(connection: sqlite3.Connection) -> None:
        connection.execute(sql, arguments)
        (first,) = queues.dequeue(connection, PARTITION, 0, 1)
        (second,) = queues.dequeue(connection, PARTITION, 1, 60)
        queues.delete(connection, [first])
        queues.abandon(connection, first, 0)
        assert queues.renew(connection, [first, second], 90) == [first]
        assert queues.dequeue(connection, PARTITION, 89, 100) == []
        queues.delete(connection, [second])
        assert connection.execute("SELECT count(*) FROM control_messages").fetchone() == (0,)

    await database.transact(run)


def test_backoff_doubles_up_to_a_limit() -> None:
    assert [queues.backoff_seconds(n, 60) for n in (1, 2, 5, 6, 99)] == [2, 4, 32, 60, 60]
    assert queues.backoff_seconds(99, 3600) == 600


# Leases


async def test_leases_are_acquired_and_surplus_ones_released(
    database: Database,
) -> None:
    one, two = PartitionLeases("1"), PartitionLeases("2")

    def run(connection: sqlite3.Connection) -> None:
        one.renew(connection, 0, 30, ())
        assert one.owned == {0, 1, 2, 3}
        assert one.is_held(connection, 0, 29)
        assert not one.is_held(connection, 0, 30)
        two.renew(connection, 30, 60, ())
        assert two.owned == {0, 1, 2, 3}
        assert not one.is_held(connection, 0, 31)
        assert one.renew(connection, 31, 61, ()) == {0, 1, 2, 3}
        assert two.renew(connection, 32, 62, {3}) == {2}
        assert two.owned == {0, 1, 3}
        assert two.draining == {3}
        one.renew(connection, 33, 63, ())
        assert two.renew(connection, 34, 64, ()) == {3}
        one.renew(connection, 35, 65, ())
        assert one.owned == {2, 3}
        assert two.owned == {0, 1}

    await database.transact(run)
