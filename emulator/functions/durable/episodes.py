"""A turn in the making: the messages it takes, and what it will have to write.

Where a turn's activities, timers and sub-orchestrations go: one outbox for each engine.

Turns commands into history events, and hands what they ask for to an outbox.

One turn of an instance: new messages in, the orchestrator's commands out, one commit.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Protocol

from emulator.functions.durable import history
from emulator.functions.durable.errors import ActionInvalid, ArgumentInvalid
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import (
    Instance,
    Message,
    Parent,
    Status,
    check_instance_id,
    new_id,
)
from emulator.functions.durable.protocol import (
    CancelTimer,
    Command,
    ContinueAsNew,
    ScheduleActivity,
    StartChild,
    StartTimer,
    TurnState,
    context_json,
    read_failure,
    read_state,
)
from emulator.functions.durable.records import TimerRow
from emulator.functions.durable.runner import FunctionRunner, unknown_activity, unknown_orchestrator
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement
from emulator.functions.errors import FunctionFailure

FAILURES = frozenset({EventType.TASK_FAILED, EventType.CHILD_FAILED})


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


class Endings(Protocol):
    """Saves a turn in one of the ways in which it can end."""

    async def go_on(self, turn: Turn, custom_status: str | None) -> None:
        """Let the instance wait for what it has asked for."""
        ...

    async def finish(
        self, turn: Turn, status: Status, output: str | None, reason: str, custom_status: str | None
    ) -> None:
        """Give the instance its final status. `output` is JSON, `reason` what its parent hears."""
        ...

    async def continue_as_new(
        self, turn: Turn, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Begin again with a new input, an empty history and no timers."""
        ...


def ready(instance: Instance) -> bool:
    """Whether a turn is to be made."""
    if instance.finished:
        return False
    if instance.suspended:
        return termination_of(instance) is not None
    return bool(instance.mailbox) or instance.turn == 0


def termination_of(instance: Instance) -> Message | None:
    """Return the message that ends the instance at once, if there is one."""
    for message in instance.mailbox:
        if message.kind is EventType.EXECUTION_TERMINATED:
            return message
    return None


def take(instance: Instance) -> list[Message]:
    """Take messages until a second one would move a retry (see the shim)."""
    batch: list[Message] = []
    shim, mailbox = instance.shim, instance.mailbox
    while mailbox:
        message = mailbox[0]
        moves = shim.moves_retry(message.task, failed=message.kind in FAILURES)
        if moves and batch:
            break
        batch.append(mailbox.popleft())
    return batch


def begin(instance: Instance, batch: list[Message], now: int) -> Turn:
    """Begin a turn with the events that open it."""
    turn = Turn(instance, batch, now, instance.shim.copy())
    turn.events.append(history.event(EventType.ORCHESTRATOR_STARTED, now))
    if instance.turn == 0:
        parent_id = instance.parent.id if instance.parent else None
        turn.events.append(
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
    return turn


def close_events(turn: Turn) -> str:
    """End the turn's events; return their text as the next turn replays it."""
    turn.events.append(history.event(EventType.ORCHESTRATOR_COMPLETED, turn.now))
    return history.played(turn.news)


def renew(turn: Turn, command: ContinueAsNew, custom_status: str | None) -> Instance:
    """Return the next execution of an instance that continues as new."""
    instance = turn.instance
    return Instance(
        instance.id,
        new_id(),
        instance.name,
        instance.version,
        Status.SUSPENDED if instance.suspended else Status.RUNNING,
        # The SDK's JSON text travels as one string, which its `get_input` decodes again.
        quoted(command.input),
        instance.created,
        turn.now,
        instance.parent,
        custom_status=custom_status,
    )


def child_ended(
    now: int, parent: Parent, status: Status, output: str | None, reason: str
) -> Message:
    """Return the message by which a parent learns how its sub-orchestration ended."""
    if status is Status.COMPLETED:
        kind = EventType.CHILD_COMPLETED
        text = history.succeeded(kind, now, parent.task, output)
    else:
        kind = EventType.CHILD_FAILED
        text = history.failed(kind, now, parent.task, reason, "")
    return Message(kind, text, parent.task, parent.execution)


class Outbox(Protocol):
    """Adds to a turn what has to be written for each of its commands."""

    def run_activity(self, turn: Turn, command: ScheduleActivity) -> None:
        """Schedule an activity."""
        ...

    def start_timer(self, turn: Turn, timer: TimerRow) -> None:
        """Set a timer."""
        ...

    def cancel_timer(self, turn: Turn, task: int) -> None:
        """Cancel a timer."""
        ...

    def start_child(self, turn: Turn, child: Instance) -> None:
        """Start a sub-orchestration; tell its parent if its id is taken."""
        ...


class Scheduler:
    """Schedules activities, sub-orchestrations and timers for the turns that ask for them."""

    def __init__(self, runner: FunctionRunner, outbox: Outbox) -> None:
        self._runner = runner
        self._outbox = outbox

    def apply(self, turn: Turn, commands: list[Command], *, ends: bool) -> None:
        """Apply commands to a turn; an orchestration that `ends` needs no more timers.

        Raises ActionInvalid for functions that do not exist and for bad instance ids.
        """
        for command in commands:
            match command:
                case ScheduleActivity():
                    self._schedule(turn, command)
                case StartChild():
                    self._start_child(turn, command)
                case StartTimer():
                    self._start_timer(turn, command, ends=ends)
                case CancelTimer(task):
                    self._outbox.cancel_timer(turn, task)
                case ContinueAsNew():
                    pass

    def _schedule(self, turn: Turn, command: ScheduleActivity) -> None:
        if command.name not in self._runner.activities:
            raise ActionInvalid(unknown_activity(self._runner, command.name))
        turn.events.append(
            history.task_scheduled(turn.now, command.task, command.name, command.input)
        )
        self._outbox.run_activity(turn, command)

    def _start_timer(self, turn: Turn, command: StartTimer, *, ends: bool) -> None:
        instance = turn.instance
        turn.events.append(history.timer_created(turn.now, command.task, command.due))
        if command.canceled or ends:
            return
        timer = TimerRow(instance.id, command.task, instance.execution, command.due)
        self._outbox.start_timer(turn, timer)

    def _start_child(self, turn: Turn, command: StartChild) -> None:
        parent = turn.instance
        if command.name not in self._runner.orchestrators:
            raise ActionInvalid(unknown_orchestrator(self._runner, command.name))
        child_id = command.instance_id or f"{parent.execution}:{command.task:04X}"
        try:
            check_instance_id(child_id)
        except ArgumentInvalid as problem:
            raise ActionInvalid(str(problem)) from problem
        # The SDK's JSON text travels as one string, which its `get_input` decodes again.
        input_text = quoted(command.input)
        turn.events.append(
            history.child_created(turn.now, command.task, command.name, child_id, input_text)
        )
        link = Parent(parent.id, parent.execution, command.task)
        child = Instance(
            child_id,
            new_id(),
            command.name,
            command.version,
            Status.PENDING,
            input_text,
            turn.now,
            turn.now,
            link,
        )
        self._outbox.start_child(turn, child)


class Turns:
    """Makes turns, one at a time for each instance; the engine sees to that."""

    def __init__(
        self,
        now: Callable[[], int],
        history_of: Callable[[Instance], list[str]],
        runner: FunctionRunner,
        scheduler: Scheduler,
        endings: Endings,
    ) -> None:
        self._now = now
        self._history_of = history_of
        self._runner = runner
        self._scheduler = scheduler
        self._endings = endings

    async def make(self, instance: Instance) -> None:
        """Make one turn; if it raises AppUnavailable or StoreUnavailable, nothing has happened."""
        termination = termination_of(instance)
        batch = list(instance.mailbox) if termination else take(instance)
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

    async def _orchestrate(self, instance: Instance, batch: list[Message]) -> None:
        turn = begin(instance, batch, self._now())
        commands: list[Command] = []
        for message in batch:
            task = message.task
            if message.kind is EventType.EXECUTION_STARTED:
                continue  # `begin` wrote it
            if message.kind is EventType.TIMER_FIRED:
                assert task is not None
                if not turn.shim.awaits_timer(task):
                    continue
            turn.events.append(message.text)
            if task is not None:
                failed = message.kind in FAILURES
                commands += turn.shim.settle(task, failed=failed, now=turn.now)
        state = await self._run_code(turn)
        try:
            commands += turn.shim.advance(state.actions)
            self._scheduler.apply(turn, commands, ends=state.done or state.error is not None)
        except ActionInvalid as problem:
            state = TurnState((), done=False, error=str(problem))
        again = next((c for c in commands if isinstance(c, ContinueAsNew)), None)
        if state.error is not None:
            text = f"Orchestrator function '{instance.name}' failed: {state.error}"
            await self._endings.finish(turn, Status.FAILED, quoted(text), text, state.custom_status)
        elif again is not None:
            await self._endings.continue_as_new(turn, again, state.custom_status)
        elif state.done:
            await self._endings.finish(
                turn, Status.COMPLETED, state.output, "", state.custom_status
            )
        else:
            await self._endings.go_on(turn, state.custom_status)

    async def _run_code(self, turn: Turn) -> TurnState:
        instance = turn.instance
        if instance.name not in self._runner.orchestrators:
            return TurnState((), False, error=unknown_orchestrator(self._runner, instance.name))
        context = context_json(
            instance.id,
            instance.parent.id if instance.parent else None,
            instance.input,
            self._history_of(instance),
            turn.news,
            replaying=instance.turn > 0,
        )
        try:
            return read_state(await self._runner.orchestrate(instance.name, context))
        except FunctionFailure as failure:
            return read_failure(failure.message)
        except ActionInvalid as problem:
            return TurnState((), done=False, error=str(problem))

    async def _terminate(
        self, instance: Instance, batch: list[Message], termination: Message
    ) -> None:
        turn = begin(instance, batch, self._now())
        turn.events.append(
            history.event(
                EventType.EXECUTION_TERMINATED, turn.now, rest=f',"Input":{termination.text}'
            )
        )
        reason = str(json.loads(termination.text))
        await self._endings.finish(
            turn, Status.TERMINATED, termination.text, reason, instance.custom_status
        )
