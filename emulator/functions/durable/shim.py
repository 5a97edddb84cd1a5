"""Turn the SDK's actions into commands: find the new actions, and number their tasks.

In each episode, the SDK lists all actions since the start of the execution, and numbers its tasks.
The engine must number the tasks in the same order. If the numbers differ, a result reaches the
wrong task. Each activity, sub-orchestration, timer and fire-and-forget action gets the next number.
An action that waits for an external event does not get a number.

The list of actions does not contain retries. If a task with retry options fails, the SDK gives a
number to the timer before the next attempt, and then to the next attempt. Even after the last
attempt has failed, the SDK waits for one more timer.

After some events, the SDK continues a retry: it gives the next number to a timer or to a further
attempt. Such an event must be the first event of its episode. If it came later, the engine could
not number the tasks in the same order as the SDK.

In each episode, the actions whose tasks were scheduled earlier are compared with the history. If
the code of the orchestrator has changed, the actions may differ from the history. As in the Durable
extension, only these differences are errors: a task has a different number or kind, or an activity
has a different name (upper and lower case do not matter).

Source: the Durable extension's `OutOfProcOrchestrationShim`, DurableTask.Core's
`TaskOrchestrationContext` and the SDK's `RetryAbleTask`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from emulator.functions.durable.errors import ActionInvalid, NonDeterministic
from emulator.functions.durable.history import FOREVER, EventType
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
_NOT_TASKS = {ActionKind.WAIT_FOR_EVENT, ActionKind.CONTINUE_AS_NEW}
_UNSUPPORTED = {
    ActionKind.CALL_ENTITY: "call_entity",
    ActionKind.CALL_HTTP: "call_http",
    ActionKind.SIGNAL_ENTITY: "signal_entity",
}
_SCHEDULING = {EventType.TASK_SCHEDULED, EventType.CHILD_CREATED, EventType.TIMER_CREATED}
_CHANGED = (
    "Was a change made to the orchestrator code after this instance had already started running?"
)


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
    """How many of the tasks in the SDK's list of actions have been scheduled."""
    next_task: int = 0
    timers: dict[int, int] = field(default_factory=dict)
    """Maps the number of each running timer to its position among the tasks in the SDK's list."""
    retries: dict[int, RetryState] = field(default_factory=dict)
    """Maps the task number of each running attempt or retry timer to the state of its retries."""
    running: set[int] = field(default_factory=set)
    """The numbers of the running activities and sub-orchestrations without retry options."""
    retry_numbers: list[int] = field(default_factory=list)
    """The task numbers of retry timers and of second and later attempts."""
    fingerprint: str | None = ""
    """The digest of the scheduled tasks; None if an older version of this host stored the object.

    In an older object, `scheduled` and `timers` count the actions that wait for events, too.
    """
    ended_episode: int | None = None
    """The first episode in which the function had ended while tasks were still running, or None."""
    before_end: str = ""
    """This object as it was before `ended_episode`, as the text from `dump`."""
    generation: int | None = 0
    """How many instances with this id were replaced; None after continue-as-new."""

    def copy(self) -> "Shim":
        """Return a copy for an episode, which can be repeated with the original."""
        return replace(
            self,
            timers=self.timers.copy(),
            retries={task: replace(retry) for task, retry in self.retries.items()},
            running=self.running.copy(),
            retry_numbers=self.retry_numbers.copy(),
        )

    def continues_retry(self, task: int | None, *, failed: bool) -> bool:
        """Return whether the SDK gives the next task number to a timer or attempt of a retry."""
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

    @property
    def has_open_tasks(self) -> bool:
        """Return whether a task runs. As in DurableTask.Core, the instance ends only after it."""
        return bool(self.running or self.timers or self.retries)

    def before_function_ended(self) -> "Shim":
        """Return this object as before the episode that ended the function, for a rewind."""
        if self.ended_episode is None:
            return self
        return replace(Shim.load(self.before_end), ended_episode=self.ended_episode)

    def end_task(self, task: int, *, failed: bool, now: int) -> list[Command]:
        """Record that a task has ended, and return the commands for its retry, if any."""
        self.timers.pop(task, None)
        self.running.discard(task)
        retry = self.retries.pop(task, None)
        if retry is None:
            return []
        if retry.is_waiting:
            if retry.is_exhausted:
                return []
            retry.is_waiting = False
            retry.attempts += 1
            number = self._number()
            self.retry_numbers.append(number)
            self.retries[number] = retry
            return [_attempt(retry.action, number)]
        if not failed:
            return []
        retry.is_waiting = True
        number = self._number()
        self.retry_numbers.append(number)
        self.retries[number] = retry
        due = min(now + retry.action.retry_interval_ms * 1000, FOREVER)
        return [StartTimer(number, due)]

    def take_actions(
        self, actions: Sequence[Action], read_history: Callable[[], list[dict[str, Any]]]
    ) -> list[Command]:
        """Return the commands for the new actions and for the timers that were cancelled.

        Raises ActionInvalid if an action is not supported, and NonDeterministic if the actions do
        not match the history.
        """
        if self.fingerprint is None:
            self._forget_waits(actions)
        tasks = [action for action in actions if action.kind not in _NOT_TASKS]
        is_changed = self.fingerprint not in {None, _digest(tasks[: self.scheduled])}
        if is_changed or len(tasks) < self.scheduled:
            self._compare(tasks, read_history())
        commands: list[Command] = []
        for task, position in list(self.timers.items()):
            if tasks[position].canceled:
                del self.timers[task]
                commands.append(CancelTimer(task))
        commands += [
            self._schedule(tasks[position], position)
            for position in range(self.scheduled, len(tasks))
        ]
        self.scheduled = len(tasks)
        self.fingerprint = _digest(tasks)
        commands += [
            ContinueAsNew(action.input)
            for action in actions
            if action.kind is ActionKind.CONTINUE_AS_NEW
        ]
        return commands

    def _forget_waits(self, actions: Sequence[Action]) -> None:
        """Convert numbers of an older version, which also counted waits for events."""

        def count_tasks(end: int) -> int:
            return sum(action.kind not in _NOT_TASKS for action in actions[:end])

        if len(actions) >= self.scheduled:
            self.scheduled = count_tasks(self.scheduled)
            self.timers = {task: count_tasks(end) for task, end in self.timers.items()}

    def _compare(self, tasks: Sequence[Action], history: list[dict[str, Any]]) -> None:
        """Raise NonDeterministic if the scheduled tasks differ from the tasks in the history."""
        raised_count = position = 0
        for event in history:
            kind = EventType(event["EventType"])
            raised_count += kind is EventType.EVENT_RAISED
            if kind not in _SCHEDULING or event["EventId"] in self.retry_numbers:
                continue
            if position == self.scheduled:
                break  # this episode has scheduled the task
            if position == len(tasks) or tasks[position].waits_before > raised_count:
                raise NonDeterministic(_describe_missing(event))
            _check_same(event, tasks[position])
            position += 1
        if len(tasks) < self.scheduled:
            raise NonDeterministic(
                f"A previous execution of this orchestration scheduled {self.scheduled} tasks, but "
                f"the current replay execution has scheduled only {len(tasks)}. {_CHANGED}"
            )

    def _schedule(self, action: Action, position: int) -> Command:
        kind = action.kind
        if kind in _UNSUPPORTED:
            raise ActionInvalid(f"{_UNSUPPORTED[kind]} is not supported by the local host")
        number = self._number()
        if kind is ActionKind.TIMER:
            if not action.canceled:
                self.timers[number] = position
            return StartTimer(number, action.fire_at, action.canceled)
        if kind in _WITH_RETRY:
            self.retries[number] = RetryState(action)
        else:
            self.running.add(number)
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
            [
                self.scheduled,
                self.next_task,
                list(self.timers.items()),
                retries,
                sorted(self.running),
                self.retry_numbers,
                self.fingerprint,
                self.ended_episode,
                self.before_end,
                self.generation,
            ],
            separators=(",", ":"),
        )

    @classmethod
    def load(cls, text: str) -> "Shim":
        """Restore a `Shim` from the text of `dump`; a new one if the text is empty."""
        if not text:
            return cls()
        scheduled, next_task, timers, retries, *newer = json.loads(text)
        # Older versions of this host stored only the first four fields, or the first nine.
        running, *newer = newer or ((), [], None, None, "")
        return cls(
            scheduled,
            next_task,
            dict(timers),
            dict(map(_read_retry, retries)),
            set(running),
            *newer,
        )


def _read_retry(row: list[Any]) -> tuple[int, RetryState]:
    task, attempts, waiting, fields = row
    return task, RetryState(Action.from_fields(fields), attempts, waiting)


def _attempt(action: Action, task: int) -> Command:
    if action.kind in _ACTIVITIES:
        return ScheduleActivity(task, action.name, action.input)
    assert action.kind in _CHILDREN
    return StartChild(task, action.name, action.input, action.instance_id, action.version)


def _digest(tasks: Sequence[Action]) -> str:
    """Return a digest of the tasks' properties that are compared; empty without tasks."""
    if not tasks:
        return ""
    text = "\n".join(f"{_category(task)} {task.waits_before}" for task in tasks)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _category(action: Action) -> str:
    if action.kind in _ACTIVITIES:
        return f"activity {action.name.lower()}"
    return "child" if action.kind in _CHILDREN else action.kind.name


def _describe_scheduled(event: dict[str, Any], *, number_word: str) -> str:
    number = event["EventId"]
    text = "Non-Deterministic workflow detected: A previous execution of this orchestration "
    match EventType(event["EventType"]):
        case EventType.TASK_SCHEDULED:
            return f"{text}scheduled an activity task with sequence {number_word} {number}"
        case EventType.CHILD_CREATED:
            return (
                f"{text}scheduled a sub-orchestration task with sequence ID {number} and name "
                f"'{event['Name']}' (version '', instance ID '{event['InstanceId']}')"
            )
        case _:
            return f"{text}scheduled a timer task with sequence number {number}"


def _describe_missing(event: dict[str, Any]) -> str:
    """Return DurableTask.Core's error text for a task that the changed code no longer schedules."""
    kind = EventType(event["EventType"])
    text = _describe_scheduled(event, number_word="ID")
    if kind is EventType.TASK_SCHEDULED:
        text = f"{text} and name '{event['Name']}' (version '')"
    link = " but" if kind is EventType.TIMER_CREATED else ", but"
    return (
        f"{text}{link} the current replay execution hasn't (yet?) scheduled this task. {_CHANGED}"
    )


def _check_same(event: dict[str, Any], action: Action) -> None:
    """Raise NonDeterministic if an action does not match the history event of the same task.

    The error texts for activities are those that the Durable extension returns. All other texts are
    those in DurableTask.Core's source.
    """
    kind = EventType(event["EventType"])
    name = event.get("Name", "")
    text = _describe_scheduled(event, number_word="number")
    if kind is EventType.TASK_SCHEDULED:
        text = f"{text} named '{name}',"
        if action.kind in _ACTIVITIES:
            if action.name.lower() != name.lower():
                raise NonDeterministic(
                    f"{text} but the current orchestration replay instead scheduled an activity "
                    f"task named '{action.name}' with this sequence number.  {_CHANGED}"
                )
            return
    elif kind is EventType.CHILD_CREATED:
        if action.kind in _CHILDREN:
            return
        text = f"{text},"
    elif action.kind is ActionKind.TIMER:
        return
    else:
        text = f"{text} named"
    if action.kind in _ACTIVITIES:
        produced = "ScheduleTaskOrchestratorAction"
    elif action.kind in _CHILDREN:
        produced = "CreateSubOrchestrationAction"
    elif action.kind is ActionKind.TIMER:
        produced = "CreateTimerOrchestratorAction"
    else:
        produced = action.kind.name
    raise NonDeterministic(
        f"{text} but the current orchestration replay instead produced a {produced} action with "
        f"this sequence number. {_CHANGED}"
    )
