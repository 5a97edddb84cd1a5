"""One turn of an instance: new messages in, the orchestrator's commands out, one commit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from json.encoder import encode_basestring_ascii as quoted

from emulator.functions.durable import history, records
from emulator.functions.durable.actions import (
    CancelTimer,
    Command,
    ContinueAsNew,
    ScheduleActivity,
    StartChild,
    StartTimer,
)
from emulator.functions.durable.errors import ActionInvalid, ArgumentInvalid
from emulator.functions.durable.history import EventType
from emulator.functions.durable.hub import Hub, check_instance_id, new_id
from emulator.functions.durable.model import Instance, Message, Parent, Status
from emulator.functions.durable.protocol import TurnState, context_json, read_failure, read_state
from emulator.functions.durable.records import TimerRow, Work
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement
from emulator.functions.runner import FunctionFailure, FunctionRunner

_FAILURES = {EventType.TASK_FAILED, EventType.CHILD_FAILED}


@dataclass(slots=True)
class Turn:
    """What a turn has to write, and what follows once it is written."""

    instance: Instance
    batch: list[Message]
    now: int
    shim: Shim
    events: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    children: list[Instance] = field(default_factory=list)

    @property
    def news(self) -> str:
        """The events so far, as the items of a JSON list."""
        return ",".join(self.events)

    def add_event(self, text: str) -> None:
        """Add an event."""
        self.events.append(text)


def ready(instance: Instance) -> bool:
    """Whether a turn is to be made."""
    if instance.finished:
        return False
    if instance.suspended:
        return _termination(instance) is not None
    return bool(instance.mailbox) or instance.turn == 0


def _termination(instance: Instance) -> Message | None:
    for message in instance.mailbox:
        if message.kind is EventType.EXECUTION_TERMINATED:
            return message
    return None


def _take(instance: Instance) -> list[Message]:
    """Take messages until a second one would move a retry (see the shim)."""
    batch: list[Message] = []
    shim, mailbox = instance.shim, instance.mailbox
    while mailbox:
        message = mailbox[0]
        moves = shim.moves_retry(message.task, failed=message.kind in _FAILURES)
        if moves and batch:
            break
        batch.append(mailbox.popleft())
    return batch


class Turns:
    """Makes turns, one at a time for each instance; the engine sees to that."""

    def __init__(
        self,
        hub: Hub,
        runner: FunctionRunner,
        run: Callable[[Work], None],
        set_timer: Callable[[TimerRow], None],
        cancel_timer: Callable[[str, int], None],
    ) -> None:
        self._hub = hub
        self._runner = runner
        self._run = run
        self._set_timer = set_timer
        self._cancel_timer = cancel_timer

    async def make(self, instance: Instance) -> None:
        """Make one turn; if it raises AppUnavailable or StoreUnavailable, nothing has happened."""
        termination = _termination(instance)
        batch = list(instance.mailbox) if termination else _take(instance)
        if termination:
            instance.mailbox.clear()
        try:
            if termination is None:
                await self._orchestrate(instance, batch)
            else:
                await self._terminate(instance, batch, termination)
        except BaseException:
            instance.mailbox.extendleft(reversed(batch))
            raise

    def _begin(self, instance: Instance, batch: list[Message]) -> Turn:
        now = self._hub.now()
        turn = Turn(instance, batch, now, instance.shim.copy())
        turn.add_event(history.event(EventType.ORCHESTRATOR_STARTED, now))
        if instance.turn == 0:
            parent_id = instance.parent.id if instance.parent else None
            turn.add_event(
                history.execution_started(
                    now,
                    instance.name,
                    instance.version,
                    instance.input,
                    instance.id,
                    instance.execution,
                    parent_id,
                )
            )
        for message in batch:
            turn.statements.extend(records.consume(instance.id, message))
        return turn

    async def _orchestrate(self, instance: Instance, batch: list[Message]) -> None:
        turn = self._begin(instance, batch)
        commands: list[Command] = []
        for message in batch:
            task = message.task
            if message.kind is EventType.TIMER_FIRED:
                assert task is not None
                if not turn.shim.awaits_timer(task):
                    continue
            turn.add_event(message.text)
            if task is not None:
                failed = message.kind in _FAILURES
                commands += turn.shim.settle(task, failed=failed, now=turn.now)
        state = await self._run_code(turn)
        try:
            commands += turn.shim.advance(state.actions)
            self._apply(turn, commands, ends=state.done or state.error is not None)
        except ActionInvalid as problem:
            state = TurnState((), done=False, error=str(problem))
        again = next((c for c in commands if isinstance(c, ContinueAsNew)), None)
        if state.error is not None:
            text = f"Orchestrator function '{instance.name}' failed: {state.error}"
            await self._finish(turn, Status.FAILED, quoted(text), text, state.custom_status)
        elif again is not None:
            await self._continue(turn, again, state.custom_status)
        elif state.done:
            await self._finish(turn, Status.COMPLETED, state.output, "", state.custom_status)
        else:
            await self._go_on(turn, state.custom_status)

    async def _run_code(self, turn: Turn) -> TurnState:
        instance = turn.instance
        if instance.name not in self._runner.orchestrators:
            return TurnState((), False, error=unknown_orchestrator(self._runner, instance.name))
        context = context_json(
            instance.id,
            instance.parent.id if instance.parent else None,
            instance.input,
            self._hub.history(instance),
            turn.news,
            replaying=instance.turn > 0,
        )
        try:
            return read_state(await self._runner.orchestrate(instance.name, context))
        except FunctionFailure as failure:
            return read_failure(failure.message)
        except ActionInvalid as problem:
            return TurnState((), done=False, error=str(problem))

    def _apply(self, turn: Turn, commands: list[Command], *, ends: bool) -> None:
        """Turn commands into events, statements and effects; an ending needs no more timers."""
        for command in commands:
            match command:
                case ScheduleActivity():
                    self._schedule(turn, command)
                case StartChild():
                    self._start_child(turn, command)
                case StartTimer():
                    self._start_timer(turn, command, ends=ends)
                case CancelTimer(task):
                    turn.statements.append(records.delete_timer(turn.instance.id, task))
                    turn.effects.append(partial(self._cancel_timer, turn.instance.id, task))
                case ContinueAsNew():
                    pass

    def _schedule(self, turn: Turn, command: ScheduleActivity) -> None:
        instance = turn.instance
        if command.name not in self._runner.activities:
            raise ActionInvalid(unknown_activity(self._runner, command.name))
        turn.add_event(history.task_scheduled(turn.now, command.task, command.name, command.input))
        work = Work(
            self._hub.number(),
            instance.id,
            instance.execution,
            command.task,
            command.name,
            command.input,
        )
        turn.statements.append(records.insert_work(work))
        turn.effects.append(lambda: self._run(work))

    def _start_timer(self, turn: Turn, command: StartTimer, *, ends: bool) -> None:
        instance = turn.instance
        turn.add_event(history.timer_created(turn.now, command.task, command.due))
        if command.canceled or ends:
            return
        timer = TimerRow(instance.id, command.task, instance.execution, command.due)
        turn.statements.append(records.insert_timer(timer))
        turn.effects.append(lambda: self._set_timer(timer))

    def _start_child(self, turn: Turn, command: StartChild) -> None:
        parent = turn.instance
        if command.name not in self._runner.orchestrators:
            raise ActionInvalid(unknown_orchestrator(self._runner, command.name))
        child_id = command.instance_id or f"{parent.execution}:{command.task:04X}"
        try:
            check_instance_id(child_id)
        except ArgumentInvalid as problem:
            raise ActionInvalid(str(problem)) from problem
        turn.add_event(
            history.child_created(turn.now, command.task, command.name, child_id, command.input)
        )
        link = Parent(parent.id, parent.execution, command.task)
        existing = self._hub.find(child_id)
        if existing is not None and not existing.finished:
            reason = f"An Orchestration instance with the status {existing.status} already exists."
            statements, follow = self._hub.tell_parent(link, Status.FAILED, None, reason)
            turn.statements += statements
            turn.effects.append(follow)
            return
        child = Instance(
            child_id,
            new_id(),
            command.name,
            command.version,
            Status.PENDING,
            command.input,
            turn.now,
            turn.now,
            link,
        )
        self._hub.put(child)
        turn.children.append(child)
        turn.statements += [records.delete_history(child_id), records.insert_instance(child)]
        turn.effects.append(lambda: self._hub.wake(child))

    async def _go_on(self, turn: Turn, custom_status: str | None) -> None:
        instance = turn.instance
        status = Status.SUSPENDED if instance.suspended else Status.RUNNING
        fragment = self._close_events(turn)
        turn.statements.append(
            records.update_instance(
                instance.id, status, turn.now, instance.turn + 1, turn.shim, custom_status, None
            )
        )
        await self._commit(turn)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        self._hub.history(instance).append(fragment)
        instance.custom_status = custom_status
        instance.turn += 1
        self._committed(turn)

    async def _finish(
        self, turn: Turn, status: Status, output: str | None, reason: str, custom_status: str | None
    ) -> None:
        instance = turn.instance
        turn.add_event(history.execution_completed(turn.now, turn.shim.next_task, status, output))
        self._close_events(turn)
        turn.statements.append(
            # A rewind needs the shim as it was before this turn.
            records.update_instance(
                instance.id,
                status,
                turn.now,
                instance.turn + 1,
                instance.shim,
                custom_status,
                output,
            )
        )
        if instance.shim.has_timers:
            turn.statements.append(records.delete_timers(instance.id))
        if instance.parent is not None:
            statements, follow = self._hub.tell_parent(instance.parent, status, output, reason)
            turn.statements += statements
            turn.effects.append(follow)
        await self._commit(turn)
        self._stop_timers(instance)
        instance.status = status
        instance.output = output
        instance.custom_status = custom_status
        instance.history = None
        instance.turn += 1
        self._committed(turn, shim=instance.shim)
        for message in instance.mailbox:
            self._hub.store.write(list(records.consume(instance.id, message)))
        instance.mailbox.clear()
        for watcher in instance.watchers:
            if not watcher.done():
                watcher.set_result(None)
        instance.watchers.clear()

    async def _continue(
        self, turn: Turn, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        instance = turn.instance
        fresh = Instance(
            instance.id,
            new_id(),
            instance.name,
            instance.version,
            Status.SUSPENDED if instance.suspended else Status.RUNNING,
            command.input,
            instance.created,
            turn.now,
            instance.parent,
            custom_status=custom_status,
        )
        turn.statements += [
            records.delete_history(instance.id),
            records.delete_timers(instance.id),
            records.insert_instance(fresh),
        ]
        await self._commit(turn)
        self._stop_timers(instance)
        if instance.status is Status.PENDING:
            instance.status = Status.RUNNING
        instance.execution = fresh.execution
        instance.input = command.input
        instance.custom_status = custom_status
        instance.history = []
        instance.turn = 0
        late = [m for m in instance.mailbox if m.execution not in {None, instance.execution}]
        for message in late:
            instance.mailbox.remove(message)
            self._hub.store.write(list(records.consume(instance.id, message)))
        self._committed(turn, shim=Shim())

    async def _terminate(
        self, instance: Instance, batch: list[Message], termination: Message
    ) -> None:
        turn = self._begin(instance, batch)
        turn.add_event(
            history.event(
                EventType.EXECUTION_TERMINATED, turn.now, rest=f',"Input":{termination.text}'
            )
        )
        await self._finish(
            turn, Status.TERMINATED, termination.text, termination.text, instance.custom_status
        )

    def _close_events(self, turn: Turn) -> str:
        """End the turn's events and have them written; return their text."""
        turn.add_event(history.event(EventType.ORCHESTRATOR_COMPLETED, turn.now))
        fragment = history.played(turn.news)
        turn.statements.append(
            records.append_history(turn.instance.id, turn.instance.turn, fragment)
        )
        return fragment

    def _stop_timers(self, instance: Instance) -> None:
        for task in (*instance.shim.timers, *instance.shim.retries):
            self._cancel_timer(instance.id, task)

    async def _commit(self, turn: Turn) -> None:
        written = self._hub.store.write(turn.statements)
        try:
            # What was handed to the store takes effect, whoever gives up waiting for it.
            await asyncio.shield(written)
        except BaseException:
            for child in turn.children:
                self._hub.drop(child)
            raise

    def _committed(self, turn: Turn, shim: Shim | None = None) -> None:
        turn.instance.shim = turn.shim if shim is None else shim
        turn.instance.updated = turn.now
        turn.batch.clear()
        self._hub.weigh(turn.instance)
        for effect in turn.effects:
            effect()


def unknown_orchestrator(runner: FunctionRunner, name: str) -> str:
    """Say that there is no such orchestrator, as the Durable extension does."""
    return _unknown(name, "an orchestrator", "orchestrator", runner.orchestrators)


def unknown_activity(runner: FunctionRunner, name: str) -> str:
    """Say that there is no such activity, as the Durable extension does."""
    return _unknown(name, "an activity", "activity", runner.activities)


def _unknown(name: str, article_and_kind: str, kind: str, known: frozenset[str]) -> str:
    names = "', '".join(sorted(known))
    more = (
        f"The following are the known {kind} functions: '{names}'."
        if known
        else f"No {kind} functions are currently registered!"
    )
    return (
        f"The function '{name}' doesn't exist, is disabled, or is not {article_and_kind} function."
        f" Additional info: {more}"
    )
