"""The out-of-process JSON protocol of the azure-functions-durable 1.x SDK.

Each episode is one call of the orchestrator function. The host passes the context, which contains
the history and the input. The function returns the state, which contains all actions since the
start of the execution, and the output or the error. The module `shim` turns the actions into
commands for the engine.

Source: the SDK's `DurableOrchestrationContext`, `TaskOrchestrationExecutor` and
`OrchestratorState`, and the Durable extension's `OutOfProcOrchestrationShim`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from emulator.functions.durable.errors import ActionInvalid
from emulator.functions.durable.history import dump_json, quoted_or_null, to_micros
from emulator.functions.errors import FunctionFailure

# The SDK splits a timer of more than six days into timers of three days, as for Azure Storage.
_CONTEXT_TAIL = (
    '"upperSchemaVersion":1,"upperSchemaVersionNew":2,'
    '"longRunningTimerIntervalDuration":"3.00:00:00","maximumShortTimerDuration":"6.00:00:00",'
    '"defaultHttpAsyncRequestSleepTimeMillseconds":30000}'
)
_STATE_LABEL = "\n\n$OutOfProcData$:"
# The SDK raises this if the last task of a nested task_all completes after another one failed: it
# then reports the task_all to the outer task a second time.
_REPORTED_TWICE = "does not have pending sub-task with ID"
_REPORTED_TWICE_ADVICE = (
    "This is a fault of the azure-functions-durable package: it cannot run a task_all inside "
    "another task_all or task_any if a task of the inner task_all fails and the others complete "
    "later. Run the inner task_all in a sub-orchestration, or return errors from its tasks instead "
    "of raising them."
)
_COMPOUND = {11, 12}
_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


class ActionKind(IntEnum):
    """The kinds of actions in the out-of-process protocol, with their numbers."""

    ACTIVITY = 0
    ACTIVITY_WITH_RETRY = 1
    CHILD = 2
    CHILD_WITH_RETRY = 3
    CONTINUE_AS_NEW = 4
    TIMER = 5
    WAIT_FOR_EVENT = 6
    CALL_ENTITY = 7
    CALL_HTTP = 8
    SIGNAL_ENTITY = 9


@dataclass(frozen=True, slots=True)
class Action:
    """An action that an orchestrator has requested. `input` is JSON text."""

    kind: ActionKind
    name: str = ""
    input: str = "null"
    instance_id: str | None = None
    version: str | None = None
    fire_at: int = 0
    """The time at which a timer fires, in microseconds since 1970."""
    canceled: bool = False
    retry_interval_ms: int = 0
    max_attempts: int = 0
    waits_before: int = 0
    """How many `yield` statements before this action wait only for external events."""

    def to_fields(self) -> list[Any]:
        """Return the values that a retry of the action needs, as a list that JSON can store."""
        return [
            int(self.kind),
            self.name,
            self.input,
            self.instance_id,
            self.version,
            self.retry_interval_ms,
            self.max_attempts,
        ]

    @classmethod
    def from_fields(cls, fields: list[Any]) -> "Action":
        """Create an action from the list that `to_fields` returned."""
        kind, name, input_text, instance_id, version, interval, attempts = fields
        return cls(
            ActionKind(kind),
            name,
            input_text,
            instance_id,
            version,
            retry_interval_ms=interval,
            max_attempts=attempts,
        )


@dataclass(frozen=True, slots=True)
class ScheduleActivity:
    """The command to run an activity."""

    task: int
    name: str
    input: str


@dataclass(frozen=True, slots=True)
class StartChild:
    """The command to start a sub-orchestration."""

    task: int
    name: str
    input: str
    instance_id: str | None
    version: str | None


@dataclass(frozen=True, slots=True)
class StartTimer:
    """The command to start a timer.

    `due` is in microseconds since 1970. If `canceled` is true, the orchestrator created and
    cancelled the timer in the same episode. Such a timer is not started, but it has a task number.
    """

    task: int
    due: int
    canceled: bool = False


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """The command to cancel a timer."""

    task: int


@dataclass(frozen=True, slots=True)
class ContinueAsNew:
    """The command to start the instance again with a new input and an empty history."""

    input: str


Command = ScheduleActivity | StartChild | StartTimer | CancelTimer | ContinueAsNew
_LEAVES = {kind.value for kind in ActionKind}


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """The state that an orchestrator returns after an episode.

    `output` and `custom_status` are JSON texts, and `error` is plain text. `has_actions` is false
    if the orchestrator failed without returning its actions.
    """

    actions: tuple[Action, ...]
    done: bool
    output: str | None = None
    error: str | None = None
    custom_status: str | None = None
    has_actions: bool = True


def context_json(  # noqa: PLR0913 - the context has these members
    instance_id: str,
    parent_id: str | None,
    input_text: str | None,
    past: Iterable[str],
    new_events: str,
    *,
    replaying: bool,
) -> str:
    """Return the context of an episode, which the orchestrator receives, as JSON."""
    history = ",".join((*past, new_events))
    return (
        f'{{"history":[{history}],"input":{"null" if input_text is None else input_text},'
        f'"instanceId":{quoted(instance_id)},"isReplaying":{"true" if replaying else "false"},'
        f'"parentInstanceId":{quoted_or_null(parent_id)},{_CONTEXT_TAIL}'
    )


def read_state(text: str) -> EpisodeState:
    """Parse the state from the SDK's executor. Raises ActionInvalid if it is invalid."""
    try:
        return _state(json.loads(text))
    except _MALFORMED as problem:
        raise ActionInvalid(
            "The data returned by the orchestrator was not a valid state: "
            f"{type(problem).__name__}: {problem}"
        ) from problem


def read_failure(failure: FunctionFailure) -> EpisodeState:
    """Parse the state in the message of an exception that the SDK's executor raised.

    If the message does not contain a state, the state has the error text and no actions. So the
    instance fails as if its code had been changed, unless no task was scheduled before. If the
    executor raised the exception because of a known fault of the SDK, the error text describes the
    fault.
    """
    text, label, state_text = failure.message.partition(_STATE_LABEL)
    if label:
        try:
            state = read_state(state_text)
        except ActionInvalid:
            return EpisodeState((), done=False, error=text, has_actions=False)
        error = state.error or text
        return EpisodeState(state.actions, False, None, error, state.custom_status)
    if _REPORTED_TWICE in text:
        text = f"{text} {_REPORTED_TWICE_ADVICE}"
        return EpisodeState((), done=False, error=text, has_actions=False)
    if failure.type_name == "FunctionTimeoutException":
        return EpisodeState((), done=False, error=text, has_actions=False)
    error = (
        f"One or more errors occurred. (Result: Failure\nException: {failure}\n"
        f"Stack: {failure.stack})"
    )
    return EpisodeState((), done=False, error=error)


def _state(state: dict[str, Any]) -> EpisodeState:
    actions: list[Action] = []
    waits = 0
    for action in (action for group in state["actions"] for action in group):
        leaves = [replace(leaf, waits_before=waits) for leaf in _leaves([action])]
        waits += all(leaf.kind is ActionKind.WAIT_FOR_EVENT for leaf in leaves)
        actions += leaves
    error = state.get("error")
    return EpisodeState(
        tuple(actions),
        bool(state.get("isDone")),
        _dumped(state.get("output")),
        None if error is None else str(error),
        _dumped(state.get("customStatus")),
    )


def _dumped(value: object) -> str | None:
    return None if value is None else dump_json(value)


def _leaves(actions: Iterable[dict[str, Any]]) -> Iterator[Action]:
    """Yield the orchestrator's actions in order, with those inside compound actions."""
    for action in actions:
        kind = action["actionType"]
        if kind in _COMPOUND:
            yield from _leaves(action["compoundActions"])
        elif kind in _LEAVES:
            yield _leaf(ActionKind(kind), action)
        else:
            raise ActionInvalid(f"Action type {kind!r} is not supported by the local host")


def _leaf(kind: ActionKind, action: dict[str, Any]) -> Action:
    if kind is ActionKind.TIMER:
        return Action(kind, fire_at=parse_fire_at(action["fireAt"]), canceled=action["isCanceled"])
    options = action.get("retryOptions") or {}
    input_value = action.get("input")
    return Action(
        kind,
        name=str(action.get("functionName", "")),
        input=input_value if isinstance(input_value, str) else json.dumps(input_value),
        instance_id=action.get("instanceId") or None,
        version=action.get("version"),
        retry_interval_ms=int(options.get("firstRetryIntervalInMilliseconds", 0)),
        max_attempts=int(options.get("maxNumberOfAttempts", 0)),
    )


def parse_fire_at(text: str) -> int:
    """Convert the ISO 8601 time of a timer to microseconds since 1970."""
    moment = datetime.fromisoformat(text)
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
