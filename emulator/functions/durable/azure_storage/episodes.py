"""How an episode's outcome is written: send, save, delete, each in a transaction of its own.

    run the orchestrator ─▶ SEND messages ─▶ SAVE history and instance ─▶ DELETE what was dequeued

After a crash in between, the dequeued messages become visible again and the episode is repeated:
its messages are sent a second time, with the same task ids.
"""

import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from emulator.functions.durable import records
from emulator.functions.durable.actions import ContinueAsNew, ScheduleActivity
from emulator.functions.durable.azure_storage import queues
from emulator.functions.durable.azure_storage.database import Database
from emulator.functions.durable.azure_storage.faults import CrashPoint, Faults
from emulator.functions.durable.history import EventType, execution_completed, timer_fired
from emulator.functions.durable.model import Instance, Message, Parent, Status
from emulator.functions.durable.records import TimerRow
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement
from emulator.functions.durable.turn import Turn, child_ended, close_events, renew

Etag = tuple[str, int]
"""The execution and the turn that an instance's row had when an episode loaded it."""


class SplitBrain(Exception):
    """Another owner of the partition has saved the instance since the episode loaded it."""


@dataclass(slots=True, eq=False, kw_only=True)
class LoadedInstance(Instance):
    """An instance as one episode sees it; `etag` is None if it has no row yet."""

    etag: Etag | None
    die_after_event: Callable[[], Awaitable[None]] | None = None
    """What waits for an external event between send and save, if a crash point asks for it."""


def load(database: Database, instance_id: str) -> LoadedInstance | None:
    """Read an instance for an episode."""
    row = records.read_instance(database, instance_id)
    return None if row is None else _loaded(row, (row.execution, row.turn))


def started_child(start: Message, former: LoadedInstance | None) -> LoadedInstance:
    """Return the sub-orchestration that a start message asks for, in the place of a former one."""
    child_id, name, version, input_text, created, *parent = json.loads(start.text)
    assert start.execution is not None
    child = Instance(
        child_id,
        start.execution,
        name,
        version,
        Status.PENDING,
        input_text,
        created,
        created,
        Parent(*parent),
    )
    return _loaded(child, None if former is None else former.etag)


def parent_of(start: Message) -> Parent | None:
    """Return who waits for the orchestration that a start message asks for."""
    parent = json.loads(start.text)[5:] if start.text else None
    return Parent(*parent) if parent else None


def start_message(instance: Instance) -> Message:
    """Return the message that starts an instance; a sub-orchestration has no row before."""
    text = ""
    if instance.parent is not None:
        parent = instance.parent
        text = json.dumps(
            [
                instance.id,
                instance.name,
                instance.version,
                instance.input,
                instance.created,
                parent.id,
                parent.execution,
                parent.task,
            ]
        )
    return Message(EventType.EXECUTION_STARTED, text, execution=instance.execution)


class QueueOutbox:
    """An episode's activities, timers and sub-orchestrations, as messages to send."""

    def run_activity(self, turn: Turn, command: ScheduleActivity) -> None:
        """Send a work item."""
        instance = turn.instance
        turn.statements.append(
            queues.send_work(
                instance.id,
                instance.execution,
                command.task,
                command.name,
                command.input,
                turn.now,
            )
        )

    def start_timer(self, turn: Turn, timer: TimerRow) -> None:
        """Send a message that becomes visible when the timer is due."""
        text = timer_fired(timer.due, timer.task, timer.due)
        message = Message(EventType.TIMER_FIRED, text, timer.task, timer.execution)
        turn.statements.append(queues.send(timer.instance_id, message, timer.due))

    def cancel_timer(self, turn: Turn, task: int) -> None:
        """Do nothing: the message cannot be taken back, and is dropped when it becomes visible."""

    def start_child(self, turn: Turn, child: Instance) -> None:
        """Send a start message; the child gets its row with its first episode."""
        turn.statements.append(queues.send(child.id, start_message(child), turn.now))


class QueueEndings:
    """Sends, saves and deletes. Raises SplitBrain if another owner saved meanwhile."""

    def __init__(
        self,
        database: Database,
        faults: Faults,
        before_save: Callable[[Turn], Awaitable[None]],
        keep_messages: Callable[[Turn], bool],
    ) -> None:
        self._database = database
        self._faults = faults
        self._before_save = before_save
        self._keep_messages = keep_messages

    async def go_on(self, turn: Turn, custom_status: str | None) -> None:
        """Let the instance wait for what it has asked for."""
        status = Status.SUSPENDED if turn.instance.suspended else Status.RUNNING
        await self._checkpoint(turn, self._save(turn, status, turn.shim, custom_status, None))

    async def finish(
        self, turn: Turn, status: Status, output: str | None, reason: str, custom_status: str | None
    ) -> None:
        """Give the instance its final status. `output` is JSON, `reason` what its parent hears."""
        instance = turn.instance
        turn.events.append(execution_completed(turn.now, turn.shim.next_task, status, output))
        if instance.parent is not None:
            parent = instance.parent
            answer = child_ended(turn.now, parent, status, output, reason)
            turn.statements.append(queues.send(parent.id, answer, turn.now))
        await self._checkpoint(turn, self._save(turn, status, instance.shim, custom_status, output))

    async def continue_as_new(
        self, turn: Turn, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Begin again with a new input, an empty history and no timers."""
        fresh = renew(turn, command, custom_status)
        # Whoever owns the instance by then runs it, even if this host dies after the save.
        start = Message(EventType.EXECUTION_STARTED, "", execution=fresh.execution)
        turn.statements.append(queues.send(fresh.id, start, turn.now))
        await self._checkpoint(
            turn, [records.delete_history(fresh.id), records.insert_instance(fresh)]
        )

    async def record(self, turn: Turn, status: Status) -> None:
        """Save events and a status without running the orchestrator."""
        await self._checkpoint(
            turn, self._save(turn, status, turn.shim, turn.instance.custom_status, None)
        )

    def _save(
        self,
        turn: Turn,
        status: Status,
        shim: Shim,
        custom_status: str | None,
        output: str | None,
    ) -> list[Statement]:
        instance = turn.instance
        statements: list[Statement] = []
        assert isinstance(instance, LoadedInstance)
        if instance.etag != (instance.execution, instance.turn):
            # A sub-orchestration may take the place of a finished instance.
            statements = [records.delete_history(instance.id), records.insert_instance(instance)]
        return [
            *statements,
            records.append_history(instance.id, instance.turn, close_events(turn)),
            records.update_instance(
                instance.id, status, turn.now, instance.turn + 1, shim, custom_status, output
            ),
        ]

    async def _checkpoint(self, turn: Turn, save: list[Statement]) -> None:
        instance, name = turn.instance, turn.instance.name
        assert isinstance(instance, LoadedInstance)
        await self._faults.reach(CrashPoint.BEFORE_SEND, name)
        if turn.statements:
            await self._database.transact(lambda connection: _execute(connection, turn.statements))
        await self._before_save(turn)
        await self._faults.reach(CrashPoint.BEFORE_SAVE, name)

        def save_if_unchanged(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT execution, turn FROM instances WHERE id=?", (instance.id,)
            ).fetchone()
            if row != instance.etag:
                raise SplitBrain
            _execute(connection, save)

        await self._database.transact(save_if_unchanged)
        await self._faults.reach(CrashPoint.BEFORE_DELETE, name)
        if not self._keep_messages(turn):
            await self._database.transact(lambda connection: queues.delete(connection, turn.batch))


def _execute(connection: sqlite3.Connection, statements: list[Statement]) -> None:
    for sql, arguments in statements:
        connection.execute(sql, arguments)


def _loaded(row: Instance, etag: Etag | None) -> LoadedInstance:
    return LoadedInstance(
        row.id,
        row.execution,
        row.name,
        row.version,
        row.status,
        row.input,
        row.created,
        row.updated,
        row.parent,
        row.output,
        row.custom_status,
        row.turn,
        row.shim,
        etag=etag,
    )
