"""The engine: dequeues messages, groups them by instance, and runs episodes and activities.

One loop per host renews leases and held messages, then dequeues. Each instance with messages has
a session, in which one episode runs at a time; each activity is a task of its own.
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

from emulator.functions.clock import Clock
from emulator.functions.durable import records
from emulator.functions.durable.activities import run_activity
from emulator.functions.durable.azure_storage import queues
from emulator.functions.durable.azure_storage.database import Database
from emulator.functions.durable.azure_storage.episodes import (
    LoadedInstance,
    QueueEndings,
    QueueOutbox,
    SplitBrain,
    load,
    parent_of,
    start_message,
    started_child,
)
from emulator.functions.durable.azure_storage.faults import (
    CrashPoint,
    Faults,
    accept_event,
    kill_this_process,
)
from emulator.functions.durable.azure_storage.leases import Leases
from emulator.functions.durable.azure_storage.options import AzureStorageOptions
from emulator.functions.durable.azure_storage.queues import QueueMessage, WorkItem
from emulator.functions.durable.azure_storage.sorting import NO_INSTANCE, sort
from emulator.functions.durable.errors import InstanceExists, OperationInvalid, StoreUnavailable
from emulator.functions.durable.history import EventType, micros
from emulator.functions.durable.model import FINISHED, Instance, Message, Status, new_id
from emulator.functions.durable.operations import Operations
from emulator.functions.durable.outage import Outage
from emulator.functions.durable.outbox import id_taken
from emulator.functions.durable.records import Reader
from emulator.functions.durable.scheduling import Scheduler
from emulator.functions.durable.timers import TimerQueue
from emulator.functions.durable.turn import Turn, begin, child_ended, termination_of
from emulator.functions.durable.turns import Turns
from emulator.functions.hostfile import DurableOptions
from emulator.functions.runner import AppUnavailable, FunctionRunner

_log = logging.getLogger(__name__)
_SWITCHES = {EventType.EXECUTION_SUSPENDED, EventType.EXECUTION_RESUMED}
_STARTED = EventType.EXECUTION_STARTED
_SHORTEST_POLL_SECONDS = 0.005
_LONGEST_POLL_SECONDS = 0.1
_LONGEST_SLEEP_MICROS = 250_000
_LONGEST_UPKEEP_MICROS = 1_000_000
_STOP_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Session:
    """An instance with messages, on the host that owns its partition."""

    instance_id: str
    partition: int
    pending: list[QueueMessage] = field(default_factory=list)
    is_driven: bool = False
    """Whether a task runs its episodes one after another."""
    is_running: bool = False
    """Whether an episode runs: its messages are taken, its history is not saved yet."""


class AzureStorageEngine(Operations):
    """One host of a task hub; several hosts may share the hub's file."""

    def __init__(
        self,
        storage: AzureStorageOptions,
        runner: FunctionRunner,
        clock: Clock,
        options: DurableOptions,
        die: Callable[[], None] = kill_this_process,
    ) -> None:
        self.host_id = new_id()
        self.database = Database(storage.task_hub)
        self.leases = Leases(self.host_id)
        self.timers = TimerQueue(clock)
        self.outage = Outage(self.timers, self.now)
        self._runner = runner
        self._clock = clock
        self._storage = storage
        self._timeout_micros = int(storage.visibility_timeout_seconds * 1e6)
        self._lease_micros = int(storage.lease_seconds * 1e6)
        self._faults = Faults(storage.faults, self.database, die)
        self._endings = QueueEndings(
            self.database, self._faults, self._before_save, self._keeps_messages
        )
        self._turns = Turns(
            self.now, self.history_of, runner, Scheduler(runner, QueueOutbox()), self._endings
        )
        self._rivals: dict[str, bool] = {}
        """Instances whose episode another owner runs, too; whether that one dies before delete."""
        self._episode_slots = asyncio.Semaphore(options.max_orchestrators)
        self._max_activities = options.max_activities
        self._sessions: dict[str, Session] = {}
        self._held: dict[int, QueueMessage] = {}
        self._work: dict[int, WorkItem] = {}
        self._watchers: dict[str, set[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._next_upkeep = 0
        self._stopping = False

    # Life of the host

    async def start(self) -> None:
        """Open the task hub and take a share of its partitions."""
        await self.database.open()
        await self._faults.start()
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Let episodes end, give everything back, and close the task hub."""
        self._stopping = True
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self.timers.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while any(s.is_running for s in self._sessions.values()):  # noqa: ASYNC110
                    await asyncio.sleep(_SHORTEST_POLL_SECONDS)
        await self._cancel_tasks()
        with contextlib.suppress(StoreUnavailable):
            await self.database.transact(self._give_everything_back)
        await self.database.close()

    async def kill(self) -> None:
        """Stop as the death of the process would: nothing is given back."""
        self._stopping = True
        self.database.abandon()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        self.timers.close()
        await self._cancel_tasks()
        await self.database.close()

    def clock_moved(self) -> None:
        """Do what a jump of the clock has made due."""
        self.timers.poke()
        self._next_upkeep = 0
        self._wake.set()

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way, and no message is there to be dequeued."""
        waiting = self._tasks or self._wake.is_set() or self._next_upkeep == 0
        return not waiting and (self._stopping or not self._has_visible())

    async def _cancel_tasks(self) -> None:
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _give_everything_back(self, connection: sqlite3.Connection) -> None:
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
        """Return the clock's time in microseconds since 1970."""
        return micros(self._clock.now())

    async def setting(self, name: str, default: str) -> str:
        """Return a stored setting, storing the default if there is none."""
        await self.database.transact(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO settings VALUES(?, ?)", (name, default)
            )
        )
        value: str = self.database.read("SELECT value FROM settings WHERE name=?", (name,))[0][0]
        return value

    @property
    def _reader(self) -> Reader:
        return self.database

    def _lookup(self, instance_id: str) -> Instance | None:
        return records.read_instance(self.database, instance_id)

    async def _begin(self, instance: Instance, existing: Instance | None) -> None:
        def insert(connection: sqlite3.Connection) -> str | None:
            row = connection.execute(
                "SELECT execution FROM instances WHERE id=?", (instance.id,)
            ).fetchone()
            if (row and row[0]) != (existing and existing.execution):
                return "An Orchestration instance with this id was started at the same time."
            for sql, arguments in (
                records.delete_history(instance.id),
                records.insert_instance(instance),
                queues.send(instance.id, start_message(instance), instance.created),
            ):
                connection.execute(sql, arguments)
            return None

        refusal = await self.database.transact(insert)
        if refusal is not None:
            raise InstanceExists(refusal)
        self._wake.set()

    async def raise_event(self, instance_id: str, name: str, input_text: str) -> None:
        """Deliver an external event; return once it is safe. `input_text` is JSON."""
        self.find_unfinished(instance_id)
        await self._faults.reach(CrashPoint.BEFORE_EVENT, name)
        await super().raise_event(instance_id, name, input_text)
        await self._faults.reach(CrashPoint.AFTER_EVENT, name)

    async def _post(self, instance: Instance, message: Message) -> None:
        sql, arguments = queues.send(instance.id, message, self.now())

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(sql, arguments)
            if message.kind is EventType.EVENT_RAISED:
                accept_event(connection, instance.id, json.loads(message.text)["Name"])

        await self.database.transact(insert)
        self._wake.set()

    async def _switch(self, instance: Instance, status: Status, message: Message) -> None:
        await self._post(instance, message)  # the row follows with the episode that takes it

    async def rewind(self, instance_id: str) -> None:
        """Refuse: this engine does not rewind."""
        self.find(instance_id)
        raise OperationInvalid("The azure-storage engine of the local host cannot rewind.")

    async def wait_finished(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait until an instance has finished, at most so long; return whether it has."""
        until = self.now() + int(timeout_seconds * 1e6)
        interval_seconds = _SHORTEST_POLL_SECONDS
        while not self.find(instance_id).finished:
            if self.now() >= until or self._stopping:
                return False
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            watchers = self._watchers.setdefault(instance_id, set())
            watchers.add(watcher)
            await asyncio.wait([watcher], timeout=interval_seconds)
            watchers.discard(watcher)
            if not watchers and self._watchers.get(instance_id) is watchers:
                del self._watchers[instance_id]
            # Another host's episode wakes nobody here.
            interval_seconds = min(interval_seconds * 1.5, _LONGEST_POLL_SECONDS)
        return True

    async def purge(self, instances: Sequence[Instance]) -> int:
        """Forget finished instances and their histories; return how many there were."""

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

    async def _run(self) -> None:
        while True:
            try:
                found = await self._pass()
            except StoreUnavailable as problem:
                _log.error("the task hub cannot be used and is tried again: %s", problem)
                await asyncio.sleep(_LONGEST_POLL_SECONDS)
            except Exception:  # noqa: BLE001 - the edge of the host's loop, which must go on
                _log.exception("dequeuing broke and is tried again")
                await asyncio.sleep(_LONGEST_POLL_SECONDS)
            else:
                if found:
                    await asyncio.sleep(0)
                else:
                    await self._sleep()

    async def _pass(self) -> bool:
        """Renew what is due, then dequeue; return whether anything was dequeued."""
        self._wake.clear()
        if self.now() >= self._next_upkeep:
            await self._upkeep()
        if not self._has_visible():
            return False
        messages, items = await self.database.transact(self._dequeue)
        self._take_messages(messages)
        for item in items:
            self._take_work(item)
        return bool(messages or items)

    async def _upkeep(self) -> None:
        """Renew leases and held messages; drop what another host has taken."""
        now = self.now()
        third = min(self._lease_micros, self._timeout_micros) // 3

        def renew(connection: sqlite3.Connection) -> tuple[frozenset[int], list[QueueMessage]]:
            busy = {s.partition for s in self._sessions.values() if s.is_running}
            gone = self.leases.renew(connection, now, now + self._lease_micros, busy)
            until = now + self._timeout_micros
            lost = queues.renew(connection, self._held.values(), until)
            queues.renew_work(connection, self._work.values(), until)
            for message in self._waiting(gone):
                queues.abandon(connection, message, now)
            return gone, lost

        gone, lost = await self.database.transact(renew)
        self._forget([*lost, *self._waiting(gone)])
        if gone:
            _log.info("partitions %s are no longer this host's", sorted(gone))
        self._next_upkeep = now + max(min(third, _LONGEST_UPKEEP_MICROS), 1)

    def _waiting(self, partitions: frozenset[int]) -> list[QueueMessage]:
        """Return the messages of these partitions that no episode has taken."""
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

    def _listened(self) -> list[int]:
        return sorted(self.leases.owned - self.leases.draining)

    @property
    def _has_room(self) -> bool:
        """Whether another activity may run here."""
        return len(self._work) < self._max_activities

    def _has_visible(self) -> bool:
        now = self.now()
        return bool(
            (
                self._has_room
                and self.database.read(
                    "SELECT 1 FROM work_items WHERE visible_at<=? LIMIT 1", (now,)
                )
            )
            or any(
                self.database.read(
                    "SELECT 1 FROM control_messages WHERE partition=? AND visible_at<=? LIMIT 1",
                    (partition, now),
                )
                for partition in self._listened()
            )
        )

    def _dequeue(self, connection: sqlite3.Connection) -> tuple[list[QueueMessage], list[WorkItem]]:
        now = self.now()
        until = now + self._timeout_micros
        messages = [
            message
            for partition in self._listened()
            if self.leases.holds(connection, partition, now)
            for message in queues.dequeue(connection, partition, now, until)
        ]
        room = self._max_activities - len(self._work)
        return messages, queues.dequeue_work(connection, now, until, room) if room > 0 else []

    async def _sleep(self) -> None:
        """Wait for a write of this or another host, or for the time of something known."""
        partitions = ",".join(map(str, self._listened())) or "-1"
        (due,), (work_due,) = self.database.read(
            f"SELECT min(visible_at) FROM control_messages WHERE partition IN ({partitions})"  # noqa: S608 - numbers
            " UNION ALL SELECT min(visible_at) FROM work_items"
        )
        if not self._has_room:
            work_due = None  # the end of an activity wakes the loop
        known = [moment for moment in (due, work_due, self._next_upkeep) if moment is not None]
        until = min(*known, self.now() + _LONGEST_SLEEP_MICROS)
        changes = self.database.changes_of_others()
        interval_seconds = _SHORTEST_POLL_SECONDS
        await asyncio.sleep(0)
        while self.now() < until and self.database.changes_of_others() == changes:
            left_seconds = max((until - self.now()) / 1e6, 0.001)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(interval_seconds, left_seconds)):
                    await self._wake.wait()
                    return
            interval_seconds = min(interval_seconds * 1.5, _LONGEST_POLL_SECONDS / 2)

    # Sessions

    def _take_messages(self, messages: Iterable[QueueMessage]) -> None:
        """Group dequeued messages by instance, and let each instance's session go on."""
        batches: dict[str, list[QueueMessage]] = {}
        for message in messages:
            assert message.sequence is not None
            held = self._held.get(message.sequence)
            if held is not None:
                # It became visible while this host held it: only its receipt is new.
                held.dequeue_count = message.dequeue_count
                continue
            self._held[message.sequence] = message
            batches.setdefault(message.instance_id, []).append(message)
        for instance_id, batch in batches.items():
            self._add_to_session(instance_id, batch)

    def _add_to_session(self, instance_id: str, batch: list[QueueMessage]) -> None:
        session = self._sessions.get(instance_id)
        if session is None:
            session = self._sessions[instance_id] = Session(instance_id, batch[0].partition)
        elif session.is_running and self._has_no_history(instance_id):
            early = [m for m in batch if m.task is None and m.kind is not _STARTED]
            if early:
                self._spawn(self._discard_early(early))
            batch = [message for message in batch if message not in early]
        session.pending += batch
        if not session.is_driven and session.pending:
            session.is_driven = True
            self._spawn(self._drive(session))

    def _has_no_history(self, instance_id: str) -> bool:
        instance = records.read_instance(self.database, instance_id)
        return instance is None or instance.status is Status.PENDING

    async def _drive(self, session: Session) -> None:
        """Run episodes while the session has messages that one can take."""
        try:
            while session.pending and not self._stopping:
                try:
                    async with self._episode_slots:
                        if not await self._step(session):
                            break
                except AppUnavailable:
                    _log.debug("instance %s waits for the app", session.instance_id)
                except StoreUnavailable as problem:
                    _log.error("an episode of %s is repeated: %s", session.instance_id, problem)
                except Exception:  # noqa: BLE001 - the edge of one instance: the others must go on
                    _log.exception("an episode of %s broke and is repeated", session.instance_id)
                else:
                    self.outage.over()
                    continue
                await self.outage.wait()
        finally:
            session.is_driven = False
            if not session.pending:
                self._sessions.pop(session.instance_id, None)

    async def _step(self, session: Session) -> bool:
        """Run one episode; return False if no message can be taken now."""
        instance = await self._sort(session)
        if instance is None or not session.pending:
            return False
        pending = sorted(session.pending, key=lambda message: message.kind is not _STARTED)
        instance.mailbox.extend(pending)
        switch = next((m for m in pending if m.kind in _SWITCHES), None)
        if termination_of(instance) is None:
            if instance.suspended:
                switch = next((m for m in pending if m.kind is EventType.EXECUTION_RESUMED), None)
                if switch is None:
                    return False
                instance.mailbox = deque([switch])
            elif switch is not None:
                before = pending[: pending.index(switch)]
                if before or instance.turn == 0:
                    switch = None
                instance.mailbox = deque([switch] if switch else before)
        else:
            switch = None
        await self._run_episode(session, instance, switch)
        return True

    async def _run_episode(
        self, session: Session, instance: LoadedInstance, switch: Message | None
    ) -> None:
        batch = [message for message in session.pending if message in instance.mailbox]
        session.is_running = True
        try:
            if switch is not None:
                await self._record_switch(instance, switch)
                instance.mailbox.clear()
            else:
                instance.die_after_event = await self._faults.await_event(instance.id)
                await self._turns.make(instance)
        except SplitBrain:
            _log.warning(
                "%s: split brain detected: another owner saved this instance since it was loaded",
                instance.id,
            )
            instance.mailbox.clear()
            await self._give_back(batch, 0)
        finally:
            session.is_running = False
        taken = [message for message in batch if message not in instance.mailbox]
        self._release(session, taken)
        for watcher in self._watchers.pop(instance.id, ()):
            if not watcher.done():
                watcher.set_result(None)
        self._wake.set()

    async def _record_switch(self, instance: LoadedInstance, switch: Message) -> None:
        turn = begin(instance, [switch], self.now())
        turn.events.append(switch.text)
        suspended = switch.kind is EventType.EXECUTION_SUSPENDED
        await self._endings.record(turn, Status.SUSPENDED if suspended else Status.RUNNING)

    async def _sort(self, session: Session) -> LoadedInstance | None:
        """Load an instance; discard or give back the messages that no episode of it can take."""
        result = sort(load(self.database, session.instance_id), session.pending)
        self._release(session, result.not_taken)
        for start in result.refused_children:
            assert result.instance is not None
            await self._refuse_child(start, id_taken(result.instance))
        await self._delete(result.repeated_starts)
        for reason, messages in result.discarded.items():
            await self._discard(messages, reason)
        for message in result.early:
            seconds = queues.backoff_seconds(
                message.dequeue_count, self._storage.visibility_timeout_seconds
            )
            await self._give_back([message], int(seconds * 1e6))
        return result.instance

    async def _refuse_child(self, start: QueueMessage, reason: str) -> None:
        parent = parent_of(start)
        assert parent is not None
        answer = child_ended(self.now(), parent, Status.FAILED, None, reason)
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
            _log.error("messages were not discarded and return: %s", problem)

    async def _delete(self, messages: list[QueueMessage]) -> None:
        # If the transaction fails, nothing renews them: they return after their timeout.
        self._drop_held(messages)
        if messages:
            await self.database.transact(lambda connection: queues.delete(connection, messages))

    async def _give_back(self, messages: list[QueueMessage], delay_micros: int) -> None:
        visible_at = self.now() + delay_micros

        def abandon(connection: sqlite3.Connection) -> None:
            for message in messages:
                queues.abandon(connection, message, visible_at)

        self._drop_held(messages)
        await self.database.transact(abandon)

    def _release(self, session: Session, messages: list[QueueMessage]) -> None:
        session.pending = [message for message in session.pending if message not in messages]
        self._drop_held(messages)

    def _drop_held(self, messages: Iterable[QueueMessage]) -> None:
        for message in messages:
            assert message.sequence is not None
            self._held.pop(message.sequence, None)

    # Split brain on request

    async def _before_save(self, turn: Turn) -> None:
        """Inject what may happen between an episode's send and its save."""
        instance = turn.instance
        assert isinstance(instance, LoadedInstance)
        if instance.die_after_event is not None:
            await instance.die_after_event()
        if instance.id in self._rivals or any(m.kind in _SWITCHES for m in turn.batch):
            return
        if not self._faults.draw_split_brain():
            return
        rival = load(self.database, instance.id)
        for message in turn.batch:
            if message.kind is _STARTED and (rival is None or rival.execution != message.execution):
                rival = started_child(message, rival)
        if rival is None:
            return
        rival.mailbox.extend(turn.batch)
        self._rivals[instance.id] = self._faults.draw_half()
        try:
            await self._turns.make(rival)
        except AppUnavailable:
            pass
        finally:
            del self._rivals[instance.id]

    def _keeps_messages(self, turn: Turn) -> bool:
        return self._rivals.get(turn.instance.id, False)

    # Activities

    def _take_work(self, item: WorkItem) -> None:
        held = self._work.get(item.work.sequence)
        if held is not None:
            held.dequeue_count = item.dequeue_count
            return
        self._work[item.work.sequence] = item
        self._spawn(self._act(item))

    async def _act(self, item: WorkItem) -> None:
        """Run an activity, send its completion, and delete its work item."""
        work = item.work
        try:
            await self._faults.reach(CrashPoint.BEFORE_ACTIVITY, work.name)
            message = await self._result_of(item)
            await self._faults.reach(CrashPoint.AFTER_ACTIVITY, work.name)
            sql, arguments = queues.send(work.instance_id, message, self.now())
            await self.database.transact(lambda connection: connection.execute(sql, arguments))
            await self.database.transact(lambda connection: queues.delete_work(connection, item))
        except StoreUnavailable as problem:
            _log.error("activity %s runs again after its timeout: %s", work.name, problem)
        self._work.pop(work.sequence, None)
        self._wake.set()

    async def _result_of(self, item: WorkItem) -> Message:
        while True:
            try:
                message = await run_activity(self._runner, self.now, item.work)
            except AppUnavailable:
                _log.debug("activity %s waits for the app", item.work.name)
            except Exception:  # noqa: BLE001 - the edge of one activity: the others must go on
                _log.exception("activity %s could not be run and is repeated", item.work.name)
            else:
                self.outage.over()
                return message
            await self.outage.wait()
