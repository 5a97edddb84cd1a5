"""Turn the SDK's actions into commands: find the new ones and number their tasks.

In each episode the SDK lists every action since the start of the execution and numbers its tasks
itself. The engine must number them in the same order, or results reach the wrong task. Each
activity, sub-orchestration, timer and fire-and-forget action takes the next number. Waiting for an
external event takes no number. The actions do not show retries: when a task fails, the timer before
its next attempt takes a number, and so does the attempt itself. Even after the last failure the SDK
waits for one more timer.

The numbers are exact as long as an episode has at most one event that moves a retry, and has it
before all others. `moves_retry` returns which events these are.

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
    """A task with retry options: its action, and the attempts so far."""

    action: Action
    attempts: int = 1
    is_waiting: bool = False

    @property
    def is_exhausted(self) -> bool:
        """Return whether all attempts are used."""
        return self.attempts >= self.action.max_attempts


@dataclass(slots=True)
class Shim:
    """The task numbers of one execution."""

    scheduled: int = 0
    """How many actions are scheduled."""
    next_task: int = 0
    timers: dict[int, int] = field(default_factory=dict)
    """The running timers: by task, the position of the action that may cancel it."""
    retries: dict[int, RetryState] = field(default_factory=dict)
    """The tasks with retry options, by the attempt or timer for which each one waits."""

    def copy(self) -> "Shim":
        """Return a copy for an episode, which may have to be repeated from this state."""
        return Shim(
            self.scheduled,
            self.next_task,
            self.timers.copy(),
            {task: replace(retry) for task, retry in self.retries.items()},
        )

    def moves_retry(self, task: int | None, *, failed: bool) -> bool:
        """Return whether the SDK numbers a further task when this task ends."""
        retry = None if task is None else self.retries.get(task)
        if retry is None:
            return False
        return not retry.is_exhausted if retry.is_waiting else failed

    def is_awaiting_timer(self, task: int) -> bool:
        """Return whether this timer is running."""
        return task in self.timers or (task in self.retries and self.retries[task].is_waiting)

    @property
    def has_timers(self) -> bool:
        """Return whether any timer is running."""
        return bool(self.timers) or any(retry.is_waiting for retry in self.retries.values())

    def end_task(self, task: int, *, failed: bool, now: int) -> list[Command]:
        """Store that a task completed or failed; return the commands of its retry."""
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
        """Return the commands of new actions and of timers that were cancelled.

        Raises ActionInvalid if this host does not support an action, or if there are fewer actions
        than before, because then the orchestrator is not deterministic.
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
        """Return the shim as JSON text."""
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
        """Return the shim of a text from `dump`."""
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
