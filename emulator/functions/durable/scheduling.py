"""Turns commands into history events, rows, and what follows once these are safe."""

from collections.abc import Callable
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
from emulator.functions.durable.hub import Hub, check_instance_id, new_id
from emulator.functions.durable.model import Instance, Parent, Status
from emulator.functions.durable.records import TimerRow, Work
from emulator.functions.durable.turn import Turn
from emulator.functions.runner import FunctionRunner


class Scheduler:
    """Schedules activities, sub-orchestrations and timers for the turns that ask for them."""

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
                    turn.statements.append(records.delete_timer(turn.instance.id, task))
                    turn.effects.append(partial(self._cancel_timer, turn.instance.id, task))
                case ContinueAsNew():
                    pass

    def _schedule(self, turn: Turn, command: ScheduleActivity) -> None:
        instance = turn.instance
        if command.name not in self._runner.activities:
            raise ActionInvalid(unknown_activity(self._runner, command.name))
        turn.events.append(
            history.task_scheduled(turn.now, command.task, command.name, command.input)
        )
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
        turn.events.append(history.timer_created(turn.now, command.task, command.due))
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
        # The SDK's JSON text travels as one string, which its `get_input` decodes again.
        input_text = quoted(command.input)
        turn.events.append(
            history.child_created(turn.now, command.task, command.name, child_id, input_text)
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
            input_text,
            turn.now,
            turn.now,
            link,
        )
        self._hub.put(child)
        turn.children.append(child)
        turn.statements += [records.delete_history(child_id), records.insert_instance(child)]
        turn.effects.append(lambda: self._hub.wake(child))


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
