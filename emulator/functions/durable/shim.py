"""Turn the SDK's actions into commands: find the new actions, and number their tasks.

In each episode, the SDK lists all actions since the start of the execution, and numbers its tasks.
The engine must number the tasks in the same order. If the numbers differ, a result reaches the
wrong task. Each activity, sub-orchestration, timer and fire-and-forget action gets the next number.
An action that waits for an external event does not get a number.

The list of actions does not contain retries. If a task with retry options fails, the SDK gives a
number to the timer before the next attempt, and then to the next attempt. Even after the last
attempt has failed, the SDK waits for one more timer.

Some events make the SDK continue a retry (see `Shim.moves_retry`). Such an event must be the first
event of its episode. If it came later, the engine could not number the tasks in the same order as
the SDK.

Source: the Durable extension's `OutOfProcOrchestrationShim` and the SDK's `RetryAbleTask`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emulator.functions.durable.errors import ActionInvalid
from emulator.functions.durable.history import FOREVER
from emulator.functions.durable.protocol import (
    Action,
    ActionKind,
    CancelTimer,
    Command,
    ContinueAsNew,
    ScheduleActivity,
    StartChild,
    StartTimer,
)

_WITH_RETRY = {ActionKind.ACTIVITY_WITH_RETRY, ActionKind.CHILD_WITH_RETRY}
_ACTIVITIES = {ActionKind.ACTIVITY, ActionKind.ACTIVITY_WITH_RETRY}
_CHILDREN = {ActionKind.CHILD, ActionKind.CHILD_WITH_RETRY}
_UNSUPPORTED = {
    ActionKind.CALL_ENTITY: "call_entity",
    ActionKind.CALL_HTTP: "call_http",
    ActionKind.SIGNAL_ENTITY: "signal_entity",
}


@dataclass(slots=True)
class RetryState:
    """The state of a task with retry options.

    `attempts` counts the attempts that have been started. `is_waiting` is true while the timer
    after a failed attempt runs.
    """

    action: Action
    attempts: int = 1
    is_waiting: bool = False

    @property
    def is_exhausted(self) -> bool:
        """Return whether the last allowed attempt has been started."""
        return self.attempts >= self.action.max_attempts


@dataclass(slots=True)
class Shim:
    """Numbers the tasks of one execution of an instance, in the same order as the SDK.

    An execution ends with the instance, or when the instance continues as new.
    """

    scheduled: int = 0
    """How many of the actions in the SDK's list have been scheduled."""
    next_task: int = 0
    timers: dict[int, int] = field(default_factory=dict)
    """Maps the task number of each running timer to its position in the SDK's list of actions."""
    retries: dict[int, RetryState] = field(default_factory=dict)
    """Maps the task number of each running attempt or retry timer to the state of its retries."""

    def copy(self) -> "Shim":
        """Return a copy of this object.

        An episode changes only its copy. If the episode fails, the engine can repeat the episode
        with the original object.
        """
        return Shim(
            self.scheduled,
            self.next_task,
            self.timers.copy(),
            {task: replace(retry) for task, retry in self.retries.items()},
        )

    def moves_retry(self, task: int | None, *, failed: bool) -> bool:
        """Return whether the SDK continues a retry when this task ends.

        The SDK continues a retry with a timer or with a further attempt, and gives it the next
        task number. `failed` is true if the task ends with a failure.
        """
        retry = None if task is None else self.retries.get(task)
        if retry is None:
            return False
        return not retry.is_exhausted if retry.is_waiting else failed

    def is_awaiting_timer(self, task: int) -> bool:
        """Return whether the task is a running timer."""
        return task in self.timers or (task in self.retries and self.retries[task].is_waiting)

    @property
    def has_timers(self) -> bool:
        """Return whether the execution has any running timer."""
        return bool(self.timers) or any(retry.is_waiting for retry in self.retries.values())

    def end_task(self, task: int, *, failed: bool, now: int) -> list[Command]:
        """Record that a task completed or failed, and return the commands that continue its retry.

        The list is empty if nothing has to be retried. `now` is in microseconds since 1970.
        """
        self.timers.pop(task, None)
        retry = self.retries.pop(task, None)
        if retry is None:
            return []
        if retry.is_waiting:
            if retry.is_exhausted:
                return []
            retry.is_waiting = False
            retry.attempts += 1
            number = self._number()
            self.retries[number] = retry
            return [_attempt(retry.action, number)]
        if not failed:
            return []
        retry.is_waiting = True
        number = self._number()
        self.retries[number] = retry
        due = min(now + retry.action.retry_interval_ms * 1000, FOREVER)
        return [StartTimer(number, due)]

    def take_actions(self, actions: Sequence[Action]) -> list[Command]:
        """Return the commands for the new actions and for the timers that were cancelled.

        Raises ActionInvalid if this host does not support an action. Also raises ActionInvalid if
        the list has fewer actions than after the previous episode, because then the orchestrator is
        not deterministic.
        """
        if len(actions) < self.scheduled:
            raise ActionInvalid(
                "Non-Deterministic workflow detected: the orchestrator scheduled "
                f"{self.scheduled} actions in earlier episodes, but only {len(actions)} in this "
                "episode. Either its code was changed while this instance was running, or the code "
                "depends on the time, on random values or on I/O."
            )
        commands: list[Command] = []
        for task, position in list(self.timers.items()):
            if actions[position].canceled:
                del self.timers[task]
                commands.append(CancelTimer(task))
        for position in range(self.scheduled, len(actions)):
            command = self._schedule(actions[position], position)
            if command is not None:
                commands.append(command)
        self.scheduled = len(actions)
        return commands

    def _schedule(self, action: Action, position: int) -> Command | None:
        kind = action.kind
        if kind is ActionKind.WAIT_FOR_EVENT:
            return None
        if kind in _UNSUPPORTED:
            raise ActionInvalid(f"{_UNSUPPORTED[kind]} is not supported by the local host")
        number = self._number()
        if kind is ActionKind.CONTINUE_AS_NEW:
            return ContinueAsNew(action.input)
        if kind is ActionKind.TIMER:
            if not action.canceled:
                self.timers[number] = position
            return StartTimer(number, action.fire_at, action.canceled)
        if kind in _WITH_RETRY:
            self.retries[number] = RetryState(action)
        return _attempt(action, number)

    def _number(self) -> int:
        number = self.next_task
        self.next_task += 1
        return number

    def dump(self) -> str:
        """Return this object as JSON text. `load` reads this text."""
        retries = [
            [task, retry.attempts, retry.is_waiting, retry.action.to_fields()]
            for task, retry in self.retries.items()
        ]
        return json.dumps(
            [self.scheduled, self.next_task, list(self.timers.items()), retries],
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str) -> "Shim":
        """Return the `Shim` from which `dump` made `text`; a new `Shim` if `text` is empty."""
        if not text:
            return cls()
        scheduled, next_task, timers, retries = json.loads(text)
        return cls(scheduled, next_task, dict(timers), dict(map(_read_retry, retries)))


def _read_retry(row: list[Any]) -> tuple[int, RetryState]:
    task, attempts, waiting, fields = row
    return task, RetryState(Action.from_fields(fields), attempts, waiting)


def _attempt(action: Action, task: int) -> Command:
    if action.kind in _ACTIVITIES:
        return ScheduleActivity(task, action.name, action.input)
    assert action.kind in _CHILDREN
    return StartChild(task, action.name, action.input, action.instance_id, action.version)
