"""From the SDK's actions to commands: which are new, and which task id each one has.

The SDK answers each turn with every action since the start of the execution, and numbers its
tasks by itself; so must the engine, in the same order, or results reach the wrong task. Each
activity, sub-orchestration, timer and fire-and-forget action takes the next number; waiting for
an external event takes none. Retries are invisible in the actions: a task that failed takes a
number for the timer before its next attempt, the attempt itself another, and even the last
failure waits for one more timer.

The numbering is exact as long as a turn tells the SDK of at most one event that moves a retry,
before all others: `moves_retry` says which events these are.
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
    """One task with retry options: what to repeat, and how far it has come."""

    action: Action
    attempts: int = 1
    is_waiting: bool = False

    @property
    def is_exhausted(self) -> bool:
        """Whether no attempt is left."""
        return self.attempts >= self.action.max_attempts


@dataclass(slots=True)
class Shim:
    """The numbering of one execution's tasks."""

    scheduled: int = 0
    """How many actions have become commands."""
    next_task: int = 0
    timers: dict[int, int] = field(default_factory=dict)
    """Timers that run, by task: the position of the action that may yet cancel each."""
    retries: dict[int, RetryState] = field(default_factory=dict)
    """Retries under way, by the task (an attempt or a timer) that each one waits for."""

    def copy(self) -> "Shim":
        """Return a shim to change while this one stays, for a turn that may have to be repeated."""
        return Shim(
            self.scheduled,
            self.next_task,
            self.timers.copy(),
            {task: replace(retry) for task, retry in self.retries.items()},
        )

    def moves_retry(self, task: int | None, *, failed: bool) -> bool:
        """Whether the end of this task makes the SDK number a further task by itself."""
        retry = None if task is None else self.retries.get(task)
        if retry is None:
            return False
        return not retry.is_exhausted if retry.is_waiting else failed

    def is_awaiting_timer(self, task: int) -> bool:
        """Whether this timer is set and not cancelled."""
        return task in self.timers or (task in self.retries and self.retries[task].is_waiting)

    @property
    def has_timers(self) -> bool:
        """Whether any timer is set."""
        return bool(self.timers) or any(retry.is_waiting for retry in self.retries.values())

    def settle(self, task: int, *, failed: bool, now: int) -> list[Command]:
        """Note that a task ended (`failed` or not, a fired timer is not); return what follows."""
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

    def advance(self, actions: Sequence[Action]) -> list[Command]:
        """Return the commands of the actions that are new, and the timers cancelled since.

        Raises ActionInvalid for what the local host does not support, and when there are fewer
        actions than before: the orchestrator is not deterministic.
        """
        if len(actions) < self.scheduled:
            raise ActionInvalid(
                "Non-Deterministic workflow detected: the orchestrator scheduled "
                f"{self.scheduled} actions before, and now {len(actions)}. Was its code changed "
                "while this instance was running, or does it depend on time, chance or I/O?"
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
        """Write the shim as JSON text for `load`."""
        retries = [
            [task, retry.attempts, retry.is_waiting, retry.action.fields()]
            for task, retry in self.retries.items()
        ]
        return json.dumps(
            [self.scheduled, self.next_task, list(self.timers.items()), retries],
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str) -> "Shim":
        """Read what `dump` wrote."""
        if not text:
            return cls()
        scheduled, next_task, timers, retries = json.loads(text)
        return cls(scheduled, next_task, dict(timers), dict(map(_read_retry, retries)))


def _read_retry(row: list[Any]) -> tuple[int, RetryState]:
    task, attempts, waiting, fields = row
    return task, RetryState(Action.of_fields(fields), attempts, waiting)


def _attempt(action: Action, task: int) -> Command:
    if action.kind in _ACTIVITIES:
        return ScheduleActivity(task, action.name, action.input)
    assert action.kind in _CHILDREN
    return StartChild(task, action.name, action.input, action.instance_id, action.version)
