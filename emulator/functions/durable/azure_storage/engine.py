"""The azure-storage engine: dequeue messages, group them by instance, run episodes and activities.

Each host has leases on some partitions. The loop of a host renews these leases and the visibility
timeouts of the dequeued messages. Then the loop dequeues more messages.

A host keeps the dequeued messages of each instance in an `OrchestrationSession`. One episode of an
instance runs at a time. Each activity runs in its own asyncio task.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.clock import UtcClock
from emulator.functions.durable import records
from emulator.functions.durable.azure_storage import queues
from emulator.functions.durable.azure_storage.database import Database, RemoteDatabase
from emulator.functions.durable.azure_storage.episodes import (
    NO_INSTANCE,
    LoadedInstance,
    QueueCheckpointer,
    QueueOutbox,
    SplitBrain,
    load_instance,
    make_child,
    make_start_message,
    read_parent,
    select_messages,
)
from emulator.functions.durable.azure_storage.faults import (
    Faults,
    accept_event,
    kill_this_process,
)
from emulator.functions.durable.azure_storage.leases import PartitionLeases
from emulator.functions.durable.azure_storage.options import AzureStorageOptions, CrashPoint
from emulator.functions.durable.azure_storage.queues import DequeuedWorkItem, QueueMessage
from emulator.functions.durable.engine import DurableEngine, check_failed
from emulator.functions.durable.episodes import (
    Episode,
    EpisodeRunner,
    Scheduler,
    begin_episode,
    find_termination,
    make_child_completion,
)
from emulator.functions.durable.errors import InstanceExists, OperationInvalid, StoreUnavailable
from emulator.functions.durable.history import EventType, json_or_string, to_micros
from emulator.functions.durable.instances import (
    FINISHED,
    OrchestrationInstance,
    Status,
    TaskMessage,
    describe_id_in_use,
    make_id,
)
from emulator.functions.durable.records import Reader
from emulator.functions.durable.runner import AppOutage, FunctionRunner, run_work_item
from emulator.functions.durable.timers import TimerQueue
from emulator.functions.errors import AppUnavailable
from emulator.functions.settings import DurableOptions

_log = logging.getLogger(__name__)
_SWITCHES = {EventType.EXECUTION_SUSPENDED, EventType.EXECUTION_RESUMED}
_STARTED = EventType.EXECUTION_STARTED
_SHORTEST_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 0.1
_LONGEST_SLEEP_MICROS = 250_000
_LONGEST_RENEWAL_MICROS = 1_000_000
_STOP_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class OrchestrationSession:
    """The messages that this host has dequeued for one instance and not processed yet."""

    instance_id: str
    partition: int
    pending: list[QueueMessage] = field(default_factory=list)
    has_task: bool = False
    """Whether an asyncio task runs the episodes of the instance now."""
    is_running: bool = False
    """Whether an episode of the instance has begun and its history is not saved yet."""


class AzureStorageEngine(DurableEngine):
    """The azure-storage engine of one host. Several hosts may share the file of a task hub."""

    def __init__(
        self,
        storage: AzureStorageOptions,
        runner: FunctionRunner,
        clock: UtcClock,
        options: DurableOptions,
        die: Callable[[], None] = kill_this_process,
    ) -> None:
        self.host_id = make_id()
        self._wake = asyncio.Event()
        self.database = (
            RemoteDatabase(storage.task_hub, storage.delay_seconds, self._wake.set)
            if storage.delay_seconds
            else Database(storage.task_hub)
        )
        self.leases = PartitionLeases(self.host_id)
        self.timers = TimerQueue(clock)
        self.app_outage = AppOutage(self.timers, self.now)
        self._runner = runner
        self._options = options
        self._clock = clock
        self._storage = storage
        self._timeout_micros = int(storage.visibility_timeout_seconds * 1e6)
        self._lease_micros = int(storage.lease_seconds * 1e6)
        self._faults = Faults(storage.faults, self.database, die)
        self._checkpointer = QueueCheckpointer(
            self.database, self._faults, self._before_save, self._keeps_messages
        )
        self._episodes = EpisodeRunner(
            self.now,
            self.read_history_of,
            runner,
            Scheduler(runner, QueueOutbox()),
            self._checkpointer,
        )
        self._split_brains: dict[str, bool] = {}
        """The split brains that are simulated now, by instance id.

        In a split brain, a second owner of the partition also runs the instance's episode. The
        value is True if the second owner leaves the messages of the episode in the queue.
        """
        self._episode_slots = asyncio.Semaphore(options.max_orchestrators)
        self._max_activities = options.max_activities
        self._sessions: dict[str, OrchestrationSession] = {}
        self._held: dict[int, QueueMessage] = {}
        self._work: dict[int, DequeuedWorkItem] = {}
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.loop: asyncio.Task[None] | None = None
        self._next_renewal = 0
        self._stopping = False

    # Start and stop of the host

    async def start(self) -> None:
        """Open the task hub, and start the loop that acquires partitions and dequeues messages."""
        await self.database.open()
        await self._faults.start()
        self.loop = asyncio.create_task(self._run_loop())

    async def drain(self, timeout_seconds: float) -> None:
        """Stop dequeuing, and wait at most `timeout_seconds` for running functions."""
        self._stopping = True
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                # The loop ends by itself: a cancelled loop could lose track of dequeued messages.
                if self.loop is not None:
                    await asyncio.wait([self.loop])
                while self._work or any(  # noqa: ASYNC110
                    s.is_running for s in self._sessions.values()
                ):
                    await asyncio.sleep(_SHORTEST_POLL_SECONDS)

    async def stop(self) -> None:
        """Wait up to 2 s for running episodes, release everything, and close the task hub."""
        self._stopping = True
        self._wake.set()
        if self.loop is not None:
            # The loop ends by itself. A cancelled loop could lose track of dequeued messages, so it
            # is cancelled only if the task hub does not respond.
            await asyncio.wait([self.loop], timeout=_STOP_SECONDS)
            self.loop.cancel()
            await asyncio.gather(self.loop, return_exceptions=True)
        self.timers.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while any(s.is_running for s in self._sessions.values()):  # noqa: ASYNC110
                    await asyncio.sleep(_SHORTEST_POLL_SECONDS)
        await self._cancel_tasks()
        with contextlib.suppress(StoreUnavailable):
            await self.database.transact(self._release_everything)
        await self.database.close()

    async def kill(self) -> None:
        """Stop as if the process had died: no lease or message is released."""
        self._stopping = True
        self.database.abandon()
        if self.loop is not None:
            self.loop.cancel()
            await asyncio.gather(self.loop, return_exceptions=True)
        self.timers.close()
        await self._cancel_tasks()
        await self.database.close()

    def clock_moved(self) -> None:
        """Do now what is due. Tests call this after moving the clock."""
        self.timers.fire_due()
        self._next_renewal = 0
        self._wake.set()

    @property
    def is_quiet(self) -> bool:
        """Return whether the engine is idle: no task runs, and no message can be dequeued."""
        waiting = self._tasks or self._wake.is_set() or self._next_renewal == 0
        return not waiting and (self._stopping or not self._has_visible())

    async def _cancel_tasks(self) -> None:
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _release_everything(self, connection: sqlite3.Connection) -> None:
        now = self.now()
        for message in self._held.values():
            queues.abandon(connection, message, now)
        for item in self._work.values():
            queues.abandon_work(connection, item, now)
        self.leases.release_all(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Operations of clients

    def now(self) -> int:
        """Return the current time in microseconds since 1970."""
        return to_micros(self._clock.now())

    def check_writable(self) -> None:
        """Raise StoreUnavailable if the task hub cannot be written now. Writes nothing."""
        self.database.check_writable()

    async def get_setting(self, name: str, default: str) -> str:
        """Return a setting of the task hub; without one, store `default`."""
        query = "SELECT value FROM settings WHERE name=?"
        if not (rows := self.database.read(query, (name,))):
            await self.database.transact(
                lambda connection: connection.execute(
                    "INSERT OR IGNORE INTO settings VALUES(?, ?)", (name, default)
                )
            )
            rows = self.database.read(query, (name,))
        return str(rows[0][0])

    @property
    def _reader(self) -> Reader:
        return self.database

    def _find(self, instance_id: str) -> OrchestrationInstance | None:
        return records.read_instance(self.database, instance_id)

    async def _commit_start(
        self, instance: OrchestrationInstance, existing: OrchestrationInstance | None
    ) -> None:
        def insert(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(
                "SELECT execution FROM instances WHERE id=?", (instance.id,)
            ).fetchone()
            if (row and row[0]) != (existing and existing.execution):
                return "An Orchestration instance with this id was started at the same time."
            for sql, arguments in (
                records.delete_history(instance.id),
                records.insert_instance(instance),
                queues.send(instance.id, make_start_message(instance), instance.created),
            ):
                connection.execute(sql, arguments)
            return None

        await self._faults.reach(CrashPoint.BEFORE_START, instance.name)
        refusal = await self.database.transact(insert)
        if refusal is not None:
            raise InstanceExists(refusal)
        await self._faults.reach(CrashPoint.AFTER_START, instance.name)
        if queues.find_partition(instance.id) in self.leases.owned:
            self._wake.set()

    async def raise_event(self, instance_id: str, name: str, input_text: str) -> None:
        """Send an external event to an instance, and return when the event is committed."""
        self.find_unfinished(instance_id)
        await self._faults.reach(CrashPoint.BEFORE_EVENT, name)
        await super().raise_event(instance_id, name, input_text)
        await self._faults.reach(CrashPoint.AFTER_EVENT, name)

    async def _commit_message(self, instance: OrchestrationInstance, message: TaskMessage) -> None:
        sql, arguments = queues.send(instance.id, message, self.now())

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(sql, arguments)
            if message.kind is EventType.EVENT_RAISED:
                accept_event(connection, instance.id, json.loads(message.text)["Name"])

        await self.database.transact(insert)
        self._wake.set()

    async def _commit_switch(
        self,
        instance: OrchestrationInstance,
        status: Status,
        message: TaskMessage,
        reason: str | None,
    ) -> None:
        # The episode that uses this message updates the status in the row.
        await self._commit_message(instance, message)

    async def rewind(self, instance_id: str) -> None:
        """Raise OperationInvalid, because this engine does not support rewinding."""
        check_failed(self.find(instance_id))
        raise OperationInvalid(
            "The azure-storage engine of the local host cannot rewind instances."
        )

    async def wait_finished(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait for an instance, and return whether it has finished in time."""
        until = self.now() + int(timeout_seconds * 1e6)
        interval_seconds = _SHORTEST_POLL_SECONDS
        while not self.find(instance_id).is_finished:
            if self.now() >= until or self._stopping:
                return False
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            watchers = self._watchers.setdefault(instance_id, set())
            watchers.add(watcher)
            await asyncio.wait([watcher], timeout=interval_seconds)
            watchers.discard(watcher)
            if not watchers and self._watchers.get(instance_id) is watchers:
                del self._watchers[instance_id]
            # An episode on another host does not wake this task, so check again after a while.
            interval_seconds = min(interval_seconds * 1.5, _LONGEST_POLL_SECONDS)
        return True

    async def purge(self, instances: Sequence[OrchestrationInstance]) -> int:
        """Delete finished instances with their histories; return their number."""

        def delete(connection: sqlite3.Connection) -> int:
            count = 0
            for instance in instances:
                row = connection.execute(
                    "SELECT status FROM instances WHERE id=?", (instance.id,)
                ).fetchone()
                if row is not None and Status(row[0]) in FINISHED:
                    count += 1
                    for sql, arguments in records.delete_instance(instance.id):
                        connection.execute(sql, arguments)
            return count

        return await self.database.transact(delete)

    # Leases and dequeuing

    async def _run_loop(self) -> None:
        while not self._stopping:
            try:
                found = await self._dequeue_once()
                if not found:
                    await self._sleep()
            except StoreUnavailable as problem:
                _log.error("the task hub cannot be used; the host tries again: %s", problem)
                await asyncio.sleep(_LONGEST_POLL_SECONDS)
            except Exception:  # noqa: BLE001 - the loop must not end
                _log.exception("messages could not be dequeued; the host tries again")
                await asyncio.sleep(_LONGEST_POLL_SECONDS)
            else:
                await asyncio.sleep(0)

    async def _dequeue_once(self) -> bool:
        """Dequeue what is visible; return whether anything was. First renew if that is due."""
        self._wake.clear()
        if self.now() >= self._next_renewal:
            await self._renew()
        if not self._has_visible():
            return False
        messages, items = await self.database.transact(self._dequeue)
        self._add_messages(messages)
        for item in items:
            self._start_activity(item)
        return bool(messages or items)

    async def _renew(self) -> None:
        """Renew this host's leases and the visibility timeouts of its dequeued messages.

        Forget those that another host has dequeued or whose partition this host has lost.
        """
        now = self.now()
        third = min(self._lease_micros, self._timeout_micros) // 3

        def renew_all(
            connection: sqlite3.Connection,
        ) -> tuple[frozenset[int], list[QueueMessage]]:
            busy = {s.partition for s in self._sessions.values() if s.is_running}
            gone = self.leases.renew(connection, now, now + self._lease_micros, busy)
            until = now + self._timeout_micros
            lost = queues.renew(connection, self._held.values(), until)
            queues.renew_work(connection, self._work.values(), until)
            for message in self._list_pending(gone):
                queues.abandon(connection, message, now)
            return gone, lost

        gone, lost = await self.database.transact(renew_all)
        self._forget([*lost, *self._list_pending(gone)])
        if gone:
            _log.info("this host no longer owns the partitions %s", sorted(gone))
        self._next_renewal = now + max(min(third, _LONGEST_RENEWAL_MICROS), 1)

    def _list_pending(self, partitions: frozenset[int]) -> list[QueueMessage]:
        """Return the unprocessed messages that this host has dequeued from these partitions."""
        return [
            message
            for session in self._sessions.values()
            if session.partition in partitions
            for message in session.pending
        ]

    def _forget(self, messages: Iterable[QueueMessage]) -> None:
        for message in messages:
            assert message.sequence is not None
            self._held.pop(message.sequence, None)
            session = self._sessions.get(message.instance_id)
            if session is not None and message in session.pending:
                session.pending.remove(message)
                if not session.pending and not session.is_running:
                    del self._sessions[message.instance_id]

    def _partitions(self) -> list[int]:
        return sorted(self.leases.owned - self.leases.draining)

    @property
    def _has_room(self) -> bool:
        """Return whether this host may start another activity now."""
        return len(self._work) < self._max_activities

    def _has_visible(self) -> bool:
        due = self._next_due()
        return due is not None and due <= self.now()

    def _next_due(self) -> int | None:
        """Return when the first message is visible that this host may dequeue; None without one."""
        tables = [f"control_messages WHERE partition={number}" for number in self._partitions()]
        if self._has_room:  # otherwise `_run_activity` wakes the loop when an activity has ended
            tables.append("work_items")
        if not tables:
            return None
        # With a query for each table, SQLite reads only the first entry of an index.
        query = " UNION ALL ".join(f"SELECT min(visible_at) FROM {table}" for table in tables)  # noqa: S608 - numbers
        return min((due for (due,) in self.database.read(query) if due is not None), default=None)

    def _dequeue(
        self, connection: sqlite3.Connection
    ) -> tuple[list[QueueMessage], list[DequeuedWorkItem]]:
        now = self.now()
        until = now + self._timeout_micros
        messages = [
            message
            for partition in self._partitions()
            if self.leases.is_held(connection, partition, now)
            for message in queues.dequeue(connection, partition, now, until)
        ]
        room = self._max_activities - len(self._work)
        return messages, queues.dequeue_work(connection, now, until, room) if room > 0 else []

    async def _sleep(self) -> None:
        """Wait, at most 250 ms, for a visible message, a renewal or an event of this host."""
        latest = min(self._next_renewal, self.now() + _LONGEST_SLEEP_MICROS)
        until, changes = latest, -1
        interval_seconds = _SHORTEST_POLL_SECONDS
        await asyncio.sleep(0)
        while True:
            if changes != (changes := self.database.changes_of_others()):
                # Most writes of other hosts are messages for partitions of theirs.
                due = self._next_due()
                until = latest if due is None else min(latest, due)
            if (left_micros := until - self.now()) <= 0:
                return
            left_seconds = max(left_micros / 1e6, 0.001)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(interval_seconds, left_seconds)):
                    await self._wake.wait()
                    return
            interval_seconds = min(interval_seconds * 1.5, _LONGEST_POLL_SECONDS / 2)

    # Sessions

    def _add_messages(self, messages: Iterable[QueueMessage]) -> None:
        """Add each dequeued message to the `OrchestrationSession` of its instance."""
        batches: dict[str, list[QueueMessage]] = {}
        for message in messages:
            assert message.sequence is not None
            held = self._held.get(message.sequence)
            if held is not None:
                # The visibility timeout passed before this host renewed the message, so this host
                # has dequeued the message again. Only the dequeue count is new.
                held.dequeue_count = message.dequeue_count
                continue
            self._held[message.sequence] = message
            batches.setdefault(message.instance_id, []).append(message)
        for instance_id, batch in batches.items():
            self._add_to_session(instance_id, batch)

    def _add_to_session(self, instance_id: str, batch: list[QueueMessage]) -> None:
        session = self._sessions.get(instance_id)
        if session is None:
            session = self._sessions[instance_id] = OrchestrationSession(
                instance_id, batch[0].partition
            )
        elif session.is_running and self._has_no_history(instance_id):
            early = [m for m in batch if m.task is None and m.kind is not _STARTED]
            if early:
                self._spawn(self._discard_early(early))
            batch = [message for message in batch if message not in early]
        session.pending += batch
        if not session.has_task and session.pending:
            session.has_task = True
            self._spawn(self._run_session(session))

    def _has_no_history(self, instance_id: str) -> bool:
        instance = records.read_instance(self.database, instance_id)
        return instance is None or instance.status is Status.PENDING

    async def _run_session(self, session: OrchestrationSession) -> None:
        """Run episodes of an instance until none of its dequeued messages can start an episode."""
        try:
            while session.pending and not self._stopping:
                try:
                    async with self._episode_slots:
                        if not await self._run_next_episode(session):
                            break
                except AppUnavailable:
                    _log.debug(
                        "the orchestrator of instance %s waits until the app process runs again",
                        session.instance_id,
                    )
                except StoreUnavailable as problem:
                    _log.error(
                        "the result of the orchestrator of instance %s could not be saved; the "
                        "engine runs the orchestrator again: %s",
                        session.instance_id,
                        problem,
                    )
                except Exception:  # noqa: BLE001 - one instance must not stop the others
                    _log.exception(
                        "running the orchestrator of instance %s failed; the engine runs it again",
                        session.instance_id,
                    )
                else:
                    self.app_outage.end()
                    continue
                await self.app_outage.wait()
        finally:
            session.has_task = False
            if not session.pending:
                self._sessions.pop(session.instance_id, None)

    async def _run_next_episode(self, session: OrchestrationSession) -> bool:
        """Run one episode of an instance. Return False if no dequeued message can start one.

        While the instance is suspended, only a message that cancels a timer can.
        """
        instance = await self._select(session)
        if instance is None or not session.pending:
            return False
        pending = sorted(session.pending, key=lambda message: message.kind is not _STARTED)
        instance.mailbox.extend(pending)
        switch = next((m for m in pending if m.kind in _SWITCHES), None)
        if find_termination(instance) is None:
            if instance.is_suspended:
                switch = next((m for m in pending if m.kind is EventType.EXECUTION_RESUMED), None)
                if switch is not None:
                    instance.mailbox = deque([switch])
                elif not instance.shim.timers:
                    return False
            elif switch is not None:
                before = pending[: pending.index(switch)]
                if before or instance.episode_count == 0:
                    switch = None
                instance.mailbox = deque([switch] if switch else before)
        else:
            switch = None
        is_saved = await self._run_episode(session, instance, switch)
        return is_saved or len(session.pending) > len(pending)

    async def _run_episode(
        self, session: OrchestrationSession, instance: LoadedInstance, switch: TaskMessage | None
    ) -> bool:
        is_saved = True
        batch = [message for message in session.pending if message in instance.mailbox]
        session.is_running = True
        try:
            if switch is not None:
                await self._record_switch(instance, switch)
                instance.mailbox.clear()
            else:
                instance.die_after_event = await self._faults.watch_for_event(instance.id)
                is_saved = await self._episodes.run(instance)
        except SplitBrain:
            _log.warning(
                "%s: split brain detected: another host saved the instance after this host had "
                "loaded it",
                instance.id,
            )
            instance.mailbox.clear()
            await self._abandon(batch, 0)
        finally:
            session.is_running = False
        taken = [message for message in batch if message not in instance.mailbox]
        self._release(session, taken)
        for watcher in self._watchers.pop(instance.id, ()):
            if not watcher.done():
                watcher.set_result(None)
        self._wake.set()
        return is_saved

    async def _record_switch(self, instance: LoadedInstance, switch: TaskMessage) -> None:
        episode = begin_episode(instance, [switch], self.now())
        episode.events.append(switch.text)
        suspended = switch.kind is EventType.EXECUTION_SUSPENDED
        reason = json.loads(switch.text)["Reason"]
        if reason is not None or suspended:
            instance.output = None if reason is None else json_or_string(reason)
        await self._checkpointer.save_status(
            episode, Status.SUSPENDED if suspended else Status.RUNNING
        )

    async def _select(self, session: OrchestrationSession) -> LoadedInstance | None:
        """Load an instance, if it exists, and remove the messages that its next episode cannot use.

        A message that came before its history is saved becomes visible again after a delay, and is
        deleted after too many dequeues. The others are deleted at once.
        """
        result = select_messages(load_instance(self.database, session.instance_id), session.pending)
        self._release(session, result.not_taken)
        for start in result.refused_children:
            assert result.instance is not None
            await self._refuse_child(start, describe_id_in_use(result.instance))
        await self._delete(result.repeated_starts)
        for reason, messages in result.discarded.items():
            await self._discard(messages, reason)
        for message in result.early:
            seconds = queues.backoff_seconds(
                message.dequeue_count, self._storage.visibility_timeout_seconds
            )
            await self._abandon([message], int(seconds * 1e6))
        return result.instance

    async def _refuse_child(self, start: QueueMessage, reason: str) -> None:
        parent = read_parent(start)
        assert parent is not None
        answer = make_child_completion(self.now(), parent, Status.FAILED, None, reason)
        sql, arguments = queues.send(parent.id, answer, self.now())
        await self.database.transact(lambda connection: connection.execute(sql, arguments))
        self._wake.set()

    async def _discard(self, messages: list[QueueMessage], reason: str) -> None:
        _log.log(
            logging.WARNING if reason == NO_INSTANCE else logging.INFO,
            "%s: Discarding %d dequeued history event(s): %s",
            messages[0].instance_id,
            len(messages),
            reason,
        )
        await self._delete(messages)

    async def _discard_early(self, messages: list[QueueMessage]) -> None:
        try:
            await self._discard(messages, NO_INSTANCE)
        except StoreUnavailable as problem:
            _log.error(
                "dequeued messages could not be deleted; they become visible again: %s", problem
            )

    async def _delete(self, messages: list[QueueMessage]) -> None:
        # Stop the renewal first: if the transaction fails, the messages become visible again.
        self._drop_held(messages)
        if messages:
            await self.database.transact(lambda connection: queues.delete(connection, messages))

    async def _abandon(self, messages: list[QueueMessage], delay_micros: int) -> None:
        visible_at = self.now() + delay_micros

        def abandon(connection: sqlite3.Connection) -> None:
            for message in messages:
                queues.abandon(connection, message, visible_at)

        self._drop_held(messages)
        await self.database.transact(abandon)

    def _release(self, session: OrchestrationSession, messages: list[QueueMessage]) -> None:
        session.pending = [message for message in session.pending if message not in messages]
        self._drop_held(messages)

    def _drop_held(self, messages: Iterable[QueueMessage]) -> None:
        for message in messages:
            assert message.sequence is not None
            self._held.pop(message.sequence, None)

    # Injected faults

    async def _before_save(self, episode: Episode) -> None:
        """Inject faults after an episode's messages are sent, before its history is saved.

        One kills this process. The other runs the episode again, as a second owner would.
        """
        instance = episode.instance
        assert isinstance(instance, LoadedInstance)
        if instance.die_after_event is not None:
            await instance.die_after_event()
        if instance.id in self._split_brains or any(m.kind in _SWITCHES for m in episode.batch):
            return
        if not self._faults.draw_split_brain():
            return
        second_owner = load_instance(self.database, instance.id)
        for message in episode.batch:
            if message.kind is _STARTED and (
                second_owner is None or second_owner.execution != message.execution
            ):
                second_owner = make_child(message, second_owner)
        if second_owner is None:
            return
        second_owner.mailbox.extend(episode.batch)
        self._split_brains[instance.id] = self._faults.flip_coin()
        try:
            await self._episodes.run(second_owner)
        except AppUnavailable:
            pass
        finally:
            del self._split_brains[instance.id]

    def _keeps_messages(self, episode: Episode) -> bool:
        return self._split_brains.get(episode.instance.id, False)

    # Activities

    def _start_activity(self, item: DequeuedWorkItem) -> None:
        held = self._work.get(item.work.sequence)
        if held is not None:
            held.dequeue_count = item.dequeue_count
            return
        self._work[item.work.sequence] = item
        self._spawn(self._run_activity(item))

    async def _run_activity(self, item: DequeuedWorkItem) -> None:
        """Run an activity, send its result to its instance, and delete its work item."""
        work = item.work
        try:
            await self._faults.reach(CrashPoint.BEFORE_ACTIVITY, work.name)
            message = await self._result_of(item)
            await self._faults.reach(CrashPoint.AFTER_ACTIVITY, work.name)
            sql, arguments = queues.send(work.instance_id, message, self.now())
            await self.database.transact(lambda connection: connection.execute(sql, arguments))
            await self.database.transact(lambda connection: queues.delete_work(connection, item))
        except StoreUnavailable as problem:
            _log.error(
                "the result of the activity %s could not be stored; the engine runs the activity "
                "again after the visibility timeout: %s",
                work.name,
                problem,
            )
        self._work.pop(work.sequence, None)
        self._wake.set()

    async def _result_of(self, item: DequeuedWorkItem) -> TaskMessage:
        while True:
            try:
                message = await run_work_item(self._runner, self.now, item.work)
            except AppUnavailable:
                _log.debug("the activity %s waits until the app process runs again", item.work.name)
            except Exception:  # noqa: BLE001 - one activity must not stop the others
                _log.exception(
                    "the activity %s could not be run; the engine tries again", item.work.name
                )
            else:
                self.app_outage.end()
                return message
            await self.app_outage.wait()
