"""The statements by which instances, messages, work and timers are kept, and how they are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.functions.durable.history import EventType
from emulator.functions.durable.model import Instance, Message, Parent, Status
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


class Reader(Protocol):
    """A database that can be queried."""

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """An activity to run; `input` is JSON text."""

    sequence: int
    instance_id: str
    execution: str
    task: int
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class TimerRow:
    """A timer that is set; `due` in microseconds since 1970."""

    instance_id: str
    task: int
    execution: str
    due: int


def insert_instance(instance: Instance) -> Statement:
    """Keep a whole instance, in the place of one with the same id."""
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
            instance.turn,
            *parent_fields,
            instance.shim.dump(),
            instance.custom_status,
            instance.output,
            instance.input,
        ),
    )


def update_instance(  # noqa: PLR0913, PLR0917 - one argument a column
    instance_id: str,
    status: Status,
    updated: int,
    turn: int,
    shim: Shim,
    custom_status: str | None,
    output: str | None,
) -> Statement:
    """Keep what a turn changes."""
    return (
        _UPDATE,
        (str(status), updated, turn, shim.dump(), custom_status, output, instance_id),
    )


def set_status(instance_id: str, status: Status) -> Statement:
    """Keep a status alone."""
    return ("UPDATE instances SET status=? WHERE id=?", (str(status), instance_id))


def append_history(instance_id: str, turn: int, events: str) -> Statement:
    """Keep the events of one turn."""
    return ("INSERT INTO history VALUES(?, ?, ?)", (instance_id, turn, events))


def delete_history(instance_id: str) -> Statement:
    """Forget the events of all turns."""
    return ("DELETE FROM history WHERE id=?", (instance_id,))


def insert_message(instance_id: str, message: Message) -> Statement:
    """Keep a message, which has its sequence number."""
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


def consume(instance_id: str, message: Message) -> Iterator[Statement]:
    """Forget whatever kept a message."""
    if message.sequence is not None:
        yield ("DELETE FROM inbox WHERE sequence=?", (message.sequence,))
    if message.work is not None:
        yield ("DELETE FROM work WHERE sequence=?", (message.work,))
    if message.kind is EventType.TIMER_FIRED and message.task is not None:
        yield delete_timer(instance_id, message.task)


def insert_work(work: Work) -> Statement:
    """Keep an activity to run."""
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
    """Keep a timer."""
    return (
        "INSERT OR REPLACE INTO timers VALUES(?, ?, ?, ?)",
        (timer.instance_id, timer.task, timer.execution, timer.due),
    )


def delete_timer(instance_id: str, task: int) -> Statement:
    """Forget one timer."""
    return ("DELETE FROM timers WHERE id=? AND task=?", (instance_id, task))


def delete_timers(instance_id: str) -> Statement:
    """Forget all timers of an instance."""
    return ("DELETE FROM timers WHERE id=?", (instance_id,))


def delete_instance(instance_id: str) -> list[Statement]:
    """Forget a finished instance: nothing but its history can be left of it."""
    return [
        ("DELETE FROM instances WHERE id=?", (instance_id,)),
        delete_history(instance_id),
    ]


def read_instance(store: Reader, instance_id: str) -> Instance | None:
    """Read one instance."""
    rows = store.read(f"{_SELECT} WHERE id=?", (instance_id,))
    return _instance(rows[0]) if rows else None


def read_fresh(store: Reader) -> list[Instance]:
    """Read the instances that wait for their first turn."""
    rows = store.read(
        f"{_SELECT} WHERE turn=0 AND status IN (?, ?)",
        (str(Status.PENDING), str(Status.RUNNING)),
    )
    return [_instance(row) for row in rows]


def read_page(
    store: Reader, where: str, arguments: Sequence[Any], limit: int
) -> list[tuple[int, Instance]]:
    """Read instances with their row numbers, in the order of their start."""
    rows = store.read(
        f"SELECT rowid, {_COLUMNS} FROM instances WHERE {where} ORDER BY rowid LIMIT ?",  # noqa: S608 - `where` holds placeholders only
        (*arguments, limit),
    )
    return [(row[0], _instance(row[1:])) for row in rows]


def read_history(store: Reader, instance_id: str) -> list[str]:
    """Read the events, one text a turn."""
    return [
        events
        for (events,) in store.read(
            "SELECT events FROM history WHERE id=? ORDER BY turn", (instance_id,)
        )
    ]


def read_inbox(store: Reader) -> list[tuple[str, Message]]:
    """Read all kept messages, in order, each with its instance's id."""
    rows = store.read("SELECT id, kind, text, task, execution, sequence FROM inbox ORDER BY 6")
    return [(row[0], Message(EventType(row[1]), *row[2:])) for row in rows]


def read_work(store: Reader) -> list[Work]:
    """Read the activities to run, in order."""
    rows = store.read(
        "SELECT sequence, id, execution, task, name, input FROM work ORDER BY sequence"
    )
    return [Work(*row) for row in rows]


def read_timers(store: Reader) -> list[TimerRow]:
    """Read the timers that are set."""
    return [TimerRow(*row) for row in store.read("SELECT id, task, execution, due FROM timers")]


def _instance(row: Sequence[Any]) -> Instance:
    (
        instance_id,
        execution,
        name,
        version,
        status,
        created,
        updated,
        turn,
        parent_id,
        parent_execution,
        parent_task,
        shim,
        custom_status,
        output,
        input_text,
    ) = row
    parent = None if parent_id is None else Parent(parent_id, parent_execution, parent_task)
    return Instance(
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
        turn,
        Shim.load(shim),
    )
