"""Select the messages of an episode, and write the outcome of the episode to the task hub.

    load and select ─▶ run the orchestrator ─▶ SEND messages ─▶ SAVE history and instance
                                                             ─▶ DELETE the dequeued messages

Send, save and delete are three separate transactions. After a crash between two of them, the
dequeued messages become visible again and the episode is repeated. The repeated episode sends its
messages a second time, with the same task ids.
"""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from emulator.functions.durable import records
from emulator.functions.durable.azure_storage import queues
from emulator.functions.durable.azure_storage.database import Database
from emulator.functions.durable.azure_storage.faults import Faults
from emulator.functions.durable.azure_storage.options import CrashPoint
from emulator.functions.durable.azure_storage.queues import QueueMessage
from emulator.functions.durable.episodes import (
    Episode,
    close_events,
    make_child_completion,
    make_next_execution,
)
from emulator.functions.durable.history import EventType, execution_completed, timer_fired
from emulator.functions.durable.instances import OrchestrationInstance, Parent, Status, TaskMessage
from emulator.functions.durable.protocol import ContinueAsNew, ScheduleActivity
from emulator.functions.durable.records import TimerRow
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement

Etag = tuple[str, int]
"""The execution id and the episode count that an instance's row had when an episode loaded it."""
NO_INSTANCE = "No such instance"
_OUT_OF_ORDER = "Out of order"
_OTHER_EXECUTION = "It belongs to another execution"
_CANCELED = "Its timer was canceled"
# The completion of a task may be dequeued before the history that scheduled the task is saved. As
# in the provider, the message is then abandoned up to this many times, and finally discarded.
_MAX_EARLY_DEQUEUES = 5


class SplitBrain(Exception):
    """An episode cannot be saved: another owner of the partition has saved the instance first."""


@dataclass(slots=True, eq=False, kw_only=True)
class LoadedInstance(OrchestrationInstance):
    """An instance that was loaded from the database for an episode.

    `etag` identifies the loaded version of the instance's row. `etag` is None if the instance does
    not have a row yet.
    """

    etag: Etag | None
    die_after_event: Callable[[], Awaitable[None]] | None = None
    """The function that `Faults.watch_for_event` returned for this episode, or None.

    It must be awaited before the episode is saved. It kills the process when an event has arrived.
    """


def load_instance(database: Database, instance_id: str) -> LoadedInstance | None:
    """Load an instance for an episode. Return None if the instance does not exist."""
    row = records.read_instance(database, instance_id)
    return None if row is None else _loaded(row, (row.execution, row.episode_count))


def make_child(start: TaskMessage, former: LoadedInstance | None) -> LoadedInstance:
    """Return the sub-orchestration of a start message, which replaces `former` if not None."""
    child_id, name, version, input_text, created, *parent = json.loads(start.text)
    assert start.execution is not None
    child = OrchestrationInstance(
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


def read_parent(start: TaskMessage) -> Parent | None:
    """Return the parent orchestration that a start message names."""
    parent = json.loads(start.text)[5:] if start.text else None
    return Parent(*parent) if parent else None


def make_start_message(instance: OrchestrationInstance) -> TaskMessage:
    """Return the message that starts an instance, with the properties of a sub-orchestration."""
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
    return TaskMessage(EventType.EXECUTION_STARTED, text, execution=instance.execution)


class QueueOutbox:
    """Sends the activities, timers and sub-orchestrations of an episode as queue messages."""

    def schedule_activity(self, episode: Episode, command: ScheduleActivity) -> None:
        """Send a work item for an activity to the work-item queue."""
        instance = episode.instance
        episode.statements.append(
            queues.send_work(
                instance.id,
                instance.execution,
                command.task,
                command.name,
                command.input,
                episode.now,
            )
        )

    def start_timer(self, episode: Episode, timer: TimerRow) -> None:
        """Send the timer's message, which stays invisible until the timer is due."""
        text = timer_fired(timer.due, timer.task, timer.due)
        message = TaskMessage(EventType.TIMER_FIRED, text, timer.task, timer.execution)
        episode.statements.append(queues.send(timer.instance_id, message, timer.due))

    def cancel_timer(self, episode: Episode, task: int) -> None:
        """Do nothing. The engine discards the timer's message when this message becomes visible."""

    def start_child(self, episode: Episode, child: OrchestrationInstance) -> None:
        """Send the start message of a sub-orchestration, whose first episode inserts its row."""
        episode.statements.append(queues.send(child.id, make_start_message(child), episode.now))


class QueueCheckpointer:
    """Saves each episode in three transactions: send, save and delete the used messages.

    `before_save` is awaited between the first two. The third is omitted if `keep_messages` says so.
    Raises SplitBrain if another owner of the partition saved the instance meanwhile.
    """

    def __init__(
        self,
        database: Database,
        faults: Faults,
        before_save: Callable[[Episode], Awaitable[None]],
        keep_messages: Callable[[Episode], bool],
    ) -> None:
        self._database = database
        self._faults = faults
        self._before_save = before_save
        self._keep_messages = keep_messages

    async def save_waiting(self, episode: Episode, custom_status: str | None) -> None:
        """Save an episode after which the instance waits for messages."""
        status = Status.SUSPENDED if episode.instance.is_suspended else Status.RUNNING
        await self._checkpoint(
            episode,
            self._save(episode, status, episode.shim, custom_status, episode.instance.output),
        )

    async def save_finished(
        self,
        episode: Episode,
        status: Status,
        output: str | None,
        reason: str,
        custom_status: str | None,
    ) -> None:
        """Save an episode that ends the instance, and tell its parent."""
        instance = episode.instance
        episode.events.append(
            execution_completed(episode.now, episode.shim.next_task, status, output)
        )
        if instance.parent is not None:
            parent = instance.parent
            answer = make_child_completion(episode.now, parent, status, output, reason)
            episode.statements.append(queues.send(parent.id, answer, episode.now))
        await self._checkpoint(
            episode, self._save(episode, status, instance.shim, custom_status, output)
        )

    async def save_continued_as_new(
        self, episode: Episode, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Save an episode that ends with continue-as-new."""
        fresh = make_next_execution(episode, command, custom_status)
        # If this host dies after the save, the partition's next owner processes the start message.
        start = TaskMessage(EventType.EXECUTION_STARTED, "", execution=fresh.execution)
        episode.statements.append(queues.send(fresh.id, start, episode.now))
        await self._checkpoint(
            episode, [records.delete_history(fresh.id), records.insert_instance(fresh)]
        )

    async def save_status(self, episode: Episode, status: Status) -> None:
        """Save an episode that changes only the status and does not run the orchestrator."""
        await self._checkpoint(
            episode,
            self._save(
                episode,
                status,
                episode.shim,
                episode.instance.custom_status,
                episode.instance.output,
            ),
        )

    def _save(
        self,
        episode: Episode,
        status: Status,
        shim: Shim,
        custom_status: str | None,
        output: str | None,
    ) -> list[Statement]:
        instance = episode.instance
        statements: list[Statement] = []
        assert isinstance(instance, LoadedInstance)
        if instance.etag != (instance.execution, instance.episode_count):
            # The row is new, or this sub-orchestration replaces a finished instance.
            statements = [records.delete_history(instance.id), records.insert_instance(instance)]
        return [
            *statements,
            records.append_history(instance.id, instance.episode_count, close_events(episode)),
            records.update_instance(
                instance.id,
                status,
                episode.now,
                instance.episode_count + 1,
                shim,
                custom_status,
                output,
            ),
        ]

    async def _checkpoint(self, episode: Episode, save: list[Statement]) -> None:
        instance, name = episode.instance, episode.instance.name
        assert isinstance(instance, LoadedInstance)
        await self._faults.reach(CrashPoint.BEFORE_SEND, name)
        if episode.statements:
            await self._database.transact(
                lambda connection: _execute(connection, episode.statements)
            )
        await self._before_save(episode)
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
        if not self._keep_messages(episode):
            await self._database.transact(
                lambda connection: queues.delete(connection, episode.batch)
            )


def _execute(connection: sqlite3.Connection, statements: list[Statement]) -> None:
    for sql, arguments in statements:
        connection.execute(sql, arguments)


def _loaded(row: OrchestrationInstance, etag: Etag | None) -> LoadedInstance:
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
        row.episode_count,
        row.shim,
        etag=etag,
    )


@dataclass(slots=True)
class MessageSelection:
    """The dequeued messages that an instance's next episode cannot use.

    `early` can be used by a later episode, `discarded`, by the reason, by none.
    """

    instance: LoadedInstance | None
    repeated_starts: list[QueueMessage] = field(default_factory=list)
    refused_children: list[QueueMessage] = field(default_factory=list)
    """Start messages of sub-orchestrations whose id an unfinished instance uses.

    The caller must send a failure to the parent of each of them.
    """
    early: list[QueueMessage] = field(default_factory=list)
    """Messages to abandon, because the history to which they belong is not saved yet."""
    discarded: dict[str, list[QueueMessage]] = field(default_factory=dict)
    """The messages to discard, grouped by the reason."""

    @property
    def not_taken(self) -> list[QueueMessage]:
        """Return the dequeued messages that the next episode cannot use."""
        discarded = [message for messages in self.discarded.values() for message in messages]
        return [*self.repeated_starts, *self.early, *discarded]


def select_messages(
    instance: LoadedInstance | None, pending: Iterable[QueueMessage]
) -> MessageSelection:
    """Find the dequeued messages that the next episode of an instance cannot use.

    The caller must abandon `early`, and delete `repeated_starts` and `discarded`.
    """
    result = MessageSelection(instance)
    has_start = False
    others = []
    for message in pending:
        if message.kind is not EventType.EXECUTION_STARTED:
            others.append(message)
        elif _accept_start(result, message, has_start=has_start):
            has_start = True
        else:
            result.repeated_starts.append(message)
    for message in others:
        reason = _obstacle(result.instance, message, has_start=has_start)
        if reason is None:
            continue
        is_early = reason in {NO_INSTANCE, _OUT_OF_ORDER} and message.task is not None
        if is_early and message.dequeue_count <= _MAX_EARLY_DEQUEUES:
            result.early.append(message)
        else:
            result.discarded.setdefault(reason, []).append(message)
    return result


def _accept_start(result: MessageSelection, start: QueueMessage, *, has_start: bool) -> bool:
    instance, parent = result.instance, read_parent(start)
    if instance is not None and start.execution == instance.execution:
        return instance.episode_count == 0 and not instance.is_finished and not has_start
    if parent is None:
        return False
    if instance is None or (instance.is_finished and instance.parent != parent):
        result.instance = make_child(start, instance)
        return True
    if instance.parent != parent:
        result.refused_children.append(start)
    return False


def _obstacle(
    instance: LoadedInstance | None, message: QueueMessage, *, has_start: bool
) -> str | None:
    """Return why the next episode of an instance cannot use a message, or None."""
    reason = None
    if instance is None or (instance.status is Status.PENDING and not has_start):
        reason = NO_INSTANCE
    elif instance.is_finished:
        reason = f"Instance is {instance.status}"
    elif message.execution not in {None, instance.execution}:
        reason = _OTHER_EXECUTION
    elif message.task is None:
        pass
    elif message.task >= instance.shim.next_task:
        reason = _OUT_OF_ORDER
    elif message.kind is EventType.TIMER_FIRED and not instance.shim.is_awaiting_timer(
        message.task
    ):
        reason = _CANCELED
    return reason
