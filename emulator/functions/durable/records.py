"""The SQL statements and queries for instances, messages, work items and timers."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from emulator.functions.durable.errors import StorageRefused
from emulator.functions.durable.history import EventType, to_micros
from emulator.functions.durable.instances import (
    FINISHED,
    OrchestrationInstance,
    Parent,
    Status,
    TaskMessage,
)
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement

_COLUMNS = (
    "id, execution, name, version, status, created, updated, turn, parent_id, parent_execution,"
    " parent_task, shim, custom_status, output, input"
)
_INSERT = f"INSERT OR REPLACE INTO instances({_COLUMNS}) VALUES({','.join('?' * 15)})"
_SELECT = f"SELECT {_COLUMNS} FROM instances"  # noqa: S608 - constants
_UPDATE = (
    "UPDATE instances SET status=?, updated=?, turn=?, shim=?, custom_status=?, output=? WHERE id=?"
)
_LONGEST_PAGE = 1000
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_STATUSES: dict[str, Status] = {status.value: status for status in Status} | {
    # The numbers of .NET's `OrchestrationRuntimeStatus`.
    "0": Status.RUNNING,
    "1": Status.COMPLETED,
    "3": Status.FAILED,
    "4": Status.CANCELED,
    "5": Status.TERMINATED,
    "6": Status.PENDING,
    "7": Status.SUSPENDED,
}


class Reader(Protocol):
    """An object that runs queries on the database of a durable engine."""

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query, and return all rows."""
        ...


@dataclass(frozen=True, slots=True)
class WorkItem:
    """An activity that has to be run. `input` is JSON text."""

    sequence: int
    instance_id: str
    execution: str
    task: int
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class TimerRow:
    """A running timer. `due` is the time at which it fires, in microseconds since 1970."""

    instance_id: str
    task: int
    execution: str
    due: int


def insert_instance(instance: OrchestrationInstance) -> Statement:
    """Return the statement that inserts or replaces an instance."""
    parent = instance.parent
    parent_fields = (parent.id, parent.execution, parent.task) if parent else (None, None, None)
    return (
        _INSERT,
        (
            instance.id,
            instance.execution,
            instance.name,
            instance.version,
            str(instance.status),
            instance.created,
            instance.updated,
            instance.episode_count,
            *parent_fields,
            instance.shim.dump(),
            instance.custom_status,
            instance.output,
            instance.input,
        ),
    )


def update_instance(  # noqa: PLR0913, PLR0917 - one argument for each column
    instance_id: str,
    status: Status,
    updated: int,
    episode_count: int,
    shim: Shim,
    custom_status: str | None,
    output: str | None,
) -> Statement:
    """Return the SQL statement that updates the row of an instance after an episode."""
    return (
        _UPDATE,
        (str(status), updated, episode_count, shim.dump(), custom_status, output, instance_id),
    )


def set_status(instance_id: str, status: Status, output: str | None) -> Statement:
    """Return the SQL statement that updates only the status and the output of an instance."""
    return (
        "UPDATE instances SET status=?, output=? WHERE id=?",
        (str(status), output, instance_id),
    )


def append_history(instance_id: str, episode_count: int, events: str) -> Statement:
    """Return the SQL statement that inserts the history events of one episode."""
    return ("INSERT INTO history VALUES(?, ?, ?)", (instance_id, episode_count, events))


def delete_history(instance_id: str) -> Statement:
    """Return the SQL statement that deletes the whole history of an instance."""
    return ("DELETE FROM history WHERE id=?", (instance_id,))


def insert_message(instance_id: str, message: TaskMessage) -> Statement:
    """Return the SQL statement that inserts a message. `message.sequence` must be set."""
    return (
        "INSERT INTO inbox VALUES(?, ?, ?, ?, ?, ?)",
        (
            message.sequence,
            instance_id,
            int(message.kind),
            message.task,
            message.execution,
            message.text,
        ),
    )


def consume(instance_id: str, message: TaskMessage) -> Iterator[Statement]:
    """Yield the SQL statements that delete the rows in which a message is stored."""
    if message.sequence is not None:
        yield ("DELETE FROM inbox WHERE sequence=?", (message.sequence,))
    if message.work is not None:
        yield ("DELETE FROM work WHERE sequence=?", (message.work,))
    if message.kind is EventType.TIMER_FIRED and message.task is not None:
        yield delete_timer(instance_id, message.task)


def insert_work(work: WorkItem) -> Statement:
    """Return the SQL statement that inserts a work item."""
    return (
        "INSERT INTO work VALUES(?, ?, ?, ?, ?, ?)",
        (
            work.sequence,
            work.instance_id,
            work.execution,
            work.task,
            work.name,
            work.input,
        ),
    )


def insert_timer(timer: TimerRow) -> Statement:
    """Return the statement that inserts or replaces a task's timer."""
    return (
        "INSERT OR REPLACE INTO timers VALUES(?, ?, ?, ?)",
        (timer.instance_id, timer.task, timer.execution, timer.due),
    )


def delete_timer(instance_id: str, task: int) -> Statement:
    """Return the SQL statement that deletes the timer of a task."""
    return ("DELETE FROM timers WHERE id=? AND task=?", (instance_id, task))


def delete_timers(instance_id: str) -> Statement:
    """Return the SQL statement that deletes all timers of an instance."""
    return ("DELETE FROM timers WHERE id=?", (instance_id,))


def delete_instance(instance_id: str) -> list[Statement]:
    """Delete a finished instance's row and history; it has no messages, work or timers."""
    return [
        ("DELETE FROM instances WHERE id=?", (instance_id,)),
        delete_history(instance_id),
    ]


def read_instance(store: Reader, instance_id: str) -> OrchestrationInstance | None:
    """Return the stored instance with this id, or None if it does not exist."""
    rows = store.read(f"{_SELECT} WHERE id=?", (instance_id,))
    return _instance(rows[0]) if rows else None


def read_fresh(store: Reader) -> list[OrchestrationInstance]:
    """Return the instances whose first episode has not been saved yet."""
    rows = store.read(
        f"{_SELECT} WHERE turn=0 AND status IN (?, ?)",
        (str(Status.PENDING), str(Status.RUNNING)),
    )
    return [_instance(row) for row in rows]


def _read_instances(
    store: Reader, where: str, arguments: Sequence[Any], limit: int
) -> list[OrchestrationInstance]:
    """Return the instances that match an SQL condition, sorted by id; all if `limit` is -1."""
    rows = store.read(
        f"{_SELECT} WHERE {where} ORDER BY id LIMIT ?",  # `where` holds placeholders only
        (*arguments, limit),
    )
    return [_instance(row) for row in rows]


def read_history(store: Reader, instance_id: str) -> list[str]:
    """Return each episode's events, as JSON texts joined by commas."""
    return [
        events
        for (events,) in store.read(
            "SELECT events FROM history WHERE id=? ORDER BY turn", (instance_id,)
        )
    ]


def read_inbox(store: Reader) -> list[tuple[str, TaskMessage]]:
    """Return all messages in the inbox table with their instance ids, in the order of rows."""
    rows = store.read("SELECT id, kind, text, task, execution, sequence FROM inbox ORDER BY 6")
    return [(row[0], TaskMessage(EventType(row[1]), *row[2:])) for row in rows]


def read_work(store: Reader) -> list[WorkItem]:
    """Return all work items in the database, sorted by row number."""
    rows = store.read(
        "SELECT sequence, id, execution, task, name, input FROM work ORDER BY sequence"
    )
    return [WorkItem(*row) for row in rows]


def read_timers(store: Reader) -> list[TimerRow]:
    """Return the timers of all instances in the database."""
    return [TimerRow(*row) for row in store.read("SELECT id, task, execution, due FROM timers")]


def _instance(row: Sequence[Any]) -> OrchestrationInstance:
    (
        instance_id,
        execution,
        name,
        version,
        status,
        created,
        updated,
        episode_count,
        parent_id,
        parent_execution,
        parent_task,
        shim,
        custom_status,
        output,
        input_text,
    ) = row
    parent = None if parent_id is None else Parent(parent_id, parent_execution, parent_task)
    return OrchestrationInstance(
        instance_id,
        execution,
        name,
        version,
        Status(status),
        input_text,
        created,
        updated,
        parent,
        output,
        custom_status,
        episode_count,
        Shim.load(shim),
    )


@dataclass(frozen=True, slots=True)
class InstanceFilter:
    """The conditions that select instances from the database.

    Times are in microseconds since 1970.
    """

    prefix: str = ""
    created_from: int | None = None
    created_to: int | None = None
    statuses: frozenset[Status] = frozenset()

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "InstanceFilter":
        """Parse query parameters; as in the extension, invalid values are ignored."""
        names = query.get("runtimestatus", "").split(",")
        return cls(
            query.get("instanceidprefix", ""),
            _time(query.get("createdtimefrom")),
            _time(query.get("createdtimeto")),
            frozenset(_STATUSES[name.strip()] for name in names if name.strip() in _STATUSES),
        )

    def build_condition(self) -> tuple[str, list[Any]]:
        """Return the filter as an SQL condition, and the arguments of the condition."""
        conditions, arguments = ["1"], list[Any]()
        if self.prefix:
            conditions.append("substr(id, 1, ?) = ?")
            arguments += [len(self.prefix), self.prefix]
        if self.created_from is not None:
            conditions.append("created >= ?")
            arguments.append(self.created_from)
        if self.created_to is not None:
            conditions.append("created <= ?")
            arguments.append(self.created_to)
        if self.statuses:
            conditions.append(f"status IN ({','.join('?' * len(self.statuses))})")
            arguments += sorted(map(str, self.statuses))
        return " AND ".join(conditions), arguments


def read_page(
    store: Reader, condition: InstanceFilter, top: str | None, token: str
) -> tuple[list[OrchestrationInstance], str]:
    """Return one page of the instances that match a filter, and the token of the next page.

    An invalid `token` selects no instances. Raises StorageRefused if `top` is negative.
    """
    size = _LONGEST_PAGE
    if top is not None and _NUMBER.fullmatch(top):
        if int(top) < 0:
            raise StorageRefused
        size = min(int(top), _LONGEST_PAGE)
    where, arguments = condition.build_condition()
    if token:
        try:
            first = base64.b64decode(token, validate=True).decode()
        except ValueError:
            return [], ""
        where, arguments = f"{where} AND id >= ?", [*arguments, first]
    found = _read_instances(store, where, arguments, size + 1)
    more = len(found) > size
    return found[:size], base64.b64encode(found[size].id.encode()).decode() if more else ""


def read_finished(store: Reader, condition: InstanceFilter) -> list[OrchestrationInstance]:
    """Return the finished instances that match the filter."""
    where, arguments = condition.build_condition()
    names = sorted(map(str, FINISHED))
    marks = ",".join("?" * len(names))
    return _read_instances(store, f"{where} AND status IN ({marks})", [*arguments, *names], -1)


def _time(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat((text or "").replace(" ", "+"))
        return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
