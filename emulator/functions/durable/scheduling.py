"""Turns commands into history events, and hands what they ask for to an outbox."""

from json.encoder import encode_basestring_ascii as quoted

from emulator.functions.durable import history
from emulator.functions.durable.actions import (
    CancelTimer,
    Command,
    ContinueAsNew,
    ScheduleActivity,
    StartChild,
    StartTimer,
)
from emulator.functions.durable.errors import ActionInvalid, ArgumentInvalid
from emulator.functions.durable.hub import check_instance_id
from emulator.functions.durable.model import Instance, Parent, Status, new_id
from emulator.functions.durable.outbox import Outbox
from emulator.functions.durable.records import TimerRow
from emulator.functions.durable.turn import Turn
from emulator.functions.runner import FunctionRunner


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
