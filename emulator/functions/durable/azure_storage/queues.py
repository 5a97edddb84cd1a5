"""The queues of a task hub: the control queue of each partition, and the work-item queue.

A dequeued message stays in its queue, but is invisible until its visibility timeout has passed. A
live host renews the timeouts of its dequeued messages.

Each dequeue increases the `dequeue_count` of the message. A host can renew or delete a message only
if this count is unchanged, that is, if no other host has dequeued the message in the meantime.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import TaskMessage
from emulator.functions.durable.records import WorkItem
from emulator.functions.durable.store import Statement

PARTITION_COUNT = 4
BATCH_SIZE = 32
_MAX_BACKOFF_SECONDS = 600
_INSERT_MESSAGE = (
    "INSERT INTO control_messages(partition, instance_id, execution, kind, task, text, visible_at)"
    " VALUES(?,?,?,?,?,?,?)"
)
_INSERT_WORK = (
    "INSERT INTO work_items(instance_id, execution, task, name, input, visible_at)"
    " VALUES(?,?,?,?,?,?)"
)


@dataclass(slots=True, eq=False, kw_only=True)
class QueueMessage(TaskMessage):
    """A message that this host has dequeued. `sequence` is its row id in the control queue."""

    instance_id: str
    partition: int
    dequeue_count: int


@dataclass(slots=True, eq=False)
class DequeuedWorkItem:
    """A work item that this host has dequeued."""

    work: WorkItem
    dequeue_count: int


def find_partition(instance_id: str) -> int:
    """Return the number of the partition whose control queue has an instance's messages."""
    return zlib.crc32(instance_id.encode()) % PARTITION_COUNT


def send(instance_id: str, message: TaskMessage, visible_at: int) -> Statement:
    """Return the statement that sends a message to its control queue, hidden until `visible_at`."""
    return (
        _INSERT_MESSAGE,
        (
            find_partition(instance_id),
            instance_id,
            message.execution,
            int(message.kind),
            message.task,
            message.text,
            visible_at,
        ),
    )


def send_work(  # noqa: PLR0913, PLR0917 - one argument for each column
    instance_id: str, execution: str, task: int, name: str, input_text: str, visible_at: int
) -> Statement:
    """Return the statement that queues an activity, hidden until `visible_at`."""
    return (
        _INSERT_WORK,
        (instance_id, execution, task, name, input_text, visible_at),
    )


def dequeue(
    connection: sqlite3.Connection, partition: int, now: int, invisible_until: int
) -> list[QueueMessage]:
    """Dequeue up to 32 messages in order, and hide them until `invisible_until`."""
    rows = connection.execute(
        "SELECT id, kind, text, task, execution, instance_id, dequeue_count FROM control_messages"
        " WHERE partition=? AND visible_at<=? ORDER BY visible_at, id LIMIT ?",
        (partition, now, BATCH_SIZE),
    ).fetchall()
    _hide(connection, "control_messages", [row[0] for row in rows], invisible_until)
    return [
        QueueMessage(
            EventType(kind),
            text,
            task,
            execution,
            sequence,
            instance_id=instance_id,
            partition=partition,
            dequeue_count=count + 1,
        )
        for sequence, kind, text, task, execution, instance_id, count in rows
    ]


def dequeue_work(
    connection: sqlite3.Connection, now: int, invisible_until: int, limit: int
) -> list[DequeuedWorkItem]:
    """Dequeue at most `limit` work items, and hide them until `invisible_until`."""
    rows = connection.execute(
        "SELECT id, instance_id, execution, task, name, input, dequeue_count FROM work_items"
        " WHERE visible_at<=? ORDER BY visible_at, id LIMIT ?",
        (now, limit),
    ).fetchall()
    _hide(connection, "work_items", [row[0] for row in rows], invisible_until)
    return [DequeuedWorkItem(WorkItem(*row[:6]), row[6] + 1) for row in rows]


def _hide(
    connection: sqlite3.Connection, table: str, rows: Sequence[int], invisible_until: int
) -> None:
    connection.executemany(
        f"UPDATE {table} SET visible_at=?, dequeue_count=dequeue_count+1 WHERE id=?",  # noqa: S608 - constants
        [(invisible_until, row) for row in rows],
    )


def renew(
    connection: sqlite3.Connection, messages: Iterable[QueueMessage], invisible_until: int
) -> list[QueueMessage]:
    """Hide messages of this host until `invisible_until`; return those that others have now."""
    return [
        message
        for message in messages
        if not _set_visible(connection, "control_messages", message, invisible_until)
    ]


def renew_work(
    connection: sqlite3.Connection, items: Iterable[DequeuedWorkItem], invisible_until: int
) -> None:
    """Keep the work items of running activities invisible until the time `invisible_until`."""
    for item in items:
        _set_work_visible(connection, item, invisible_until)


def abandon(connection: sqlite3.Connection, message: QueueMessage, visible_at: int) -> None:
    """Make a dequeued message visible again at `visible_at`, unless another host has it."""
    _set_visible(connection, "control_messages", message, visible_at)


def abandon_work(connection: sqlite3.Connection, item: DequeuedWorkItem, visible_at: int) -> None:
    """Make a dequeued work item visible again at `visible_at`, unless another host has it."""
    _set_work_visible(connection, item, visible_at)


def delete(connection: sqlite3.Connection, messages: Iterable[TaskMessage]) -> None:
    """Delete messages that this host dequeued and no other host since."""
    connection.executemany(
        "DELETE FROM control_messages WHERE id=? AND dequeue_count=?",
        [(m.sequence, m.dequeue_count) for m in messages if isinstance(m, QueueMessage)],
    )


def delete_work(connection: sqlite3.Connection, item: DequeuedWorkItem) -> None:
    """Delete a work item that this host dequeued and no other host since."""
    connection.execute(
        "DELETE FROM work_items WHERE id=? AND dequeue_count=?",
        (item.work.sequence, item.dequeue_count),
    )


def backoff_seconds(dequeue_count: int, longest_seconds: float) -> float:
    """Return how long an abandoned message stays invisible: 2 s, doubled, at most 600 s."""
    return min(2.0 ** min(dequeue_count, 30), _MAX_BACKOFF_SECONDS, longest_seconds)


def _set_visible(
    connection: sqlite3.Connection, table: str, message: QueueMessage, visible_at: int
) -> bool:
    changed = connection.execute(
        f"UPDATE {table} SET visible_at=? WHERE id=? AND dequeue_count=?",  # noqa: S608 - constants
        (visible_at, message.sequence, message.dequeue_count),
    )
    return changed.rowcount > 0


def _set_work_visible(
    connection: sqlite3.Connection, item: DequeuedWorkItem, visible_at: int
) -> None:
    connection.execute(
        "UPDATE work_items SET visible_at=? WHERE id=? AND dequeue_count=?",
        (visible_at, item.work.sequence, item.dequeue_count),
    )
