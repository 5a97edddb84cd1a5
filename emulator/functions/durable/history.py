"""History events as JSON text, in the format of the Durable Task Framework.

The engines store each event as JSON text, and pass this text to the SDK without parsing it. The
numbers of the event types are those of DurableTask.Core's `EventType`.

The arguments `now` (the time of the event) and `due` (the time at which a timer fires) are in
microseconds since 1970. `task` is the number of a task.
"""

import json
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from json.encoder import encode_basestring_ascii as quoted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEW = '"IsPlayed":false'
_PLAYED = '"IsPlayed":true'


class EventType(IntEnum):
    """The kinds of history events that this host writes."""

    EXECUTION_STARTED = 0
    EXECUTION_COMPLETED = 1
    EXECUTION_TERMINATED = 3
    TASK_SCHEDULED = 4
    TASK_COMPLETED = 5
    TASK_FAILED = 6
    CHILD_CREATED = 7
    CHILD_COMPLETED = 8
    CHILD_FAILED = 9
    TIMER_CREATED = 10
    TIMER_FIRED = 11
    ORCHESTRATOR_STARTED = 12
    ORCHESTRATOR_COMPLETED = 13
    EVENT_RAISED = 15
    CONTINUE_AS_NEW = 16
    EXECUTION_SUSPENDED = 19
    EXECUTION_RESUMED = 20


def to_micros(moment: datetime) -> int:
    """Convert a time to microseconds since 1970, the unit in which the engines store times."""
    return (moment - _EPOCH) // _MICROSECOND


FOREVER = to_micros(datetime.max.replace(tzinfo=UTC))
"""The latest time that a timestamp can express, in microseconds since 1970."""


def to_datetime(microseconds: int) -> datetime:
    """Convert microseconds since 1970 to a time in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def format_timestamp(microseconds: int) -> str:
    """Format microseconds since 1970 as ISO 8601 text with microseconds, as in history events."""
    return to_datetime(microseconds).isoformat(timespec="microseconds")[:26] + "Z"


def format_seconds(microseconds: int) -> str:
    """Format microseconds since 1970 as ISO 8601 text in whole seconds, as in status responses."""
    return to_datetime(microseconds).isoformat(timespec="seconds")[:19] + "Z"


def quoted_or_null(text: str | None) -> str:
    """Return a text as a JSON string, or `null` for None."""
    return "null" if text is None else quoted(text)


def event(kind: EventType, now: int, event_id: int = -1, rest: str = "") -> str:
    """Return a history event as JSON text; each member of `rest` has a comma before it."""
    return (
        f'{{"EventType":{kind:d},"EventId":{event_id},"IsPlayed":false,'
        f'"Timestamp":"{format_timestamp(now)}"{rest}}}'
    )


def mark_played(text: str) -> str:
    """Set `IsPlayed` to true in JSON events. JSON strings cannot contain the replaced text."""
    return text.replace(_NEW, _PLAYED)


def execution_started(  # noqa: PLR0913, PLR0917 - the event has these members
    now: int,
    name: str,
    version: str | None,
    input_text: str | None,
    instance_id: str,
    execution: str,
    parent_id: str | None,
    generation: int | None,
) -> str:
    """Return the event which records the start of an execution."""
    parent = (
        "null"
        if parent_id is None
        else f'{{"OrchestrationInstance":{{"InstanceId":{quoted(parent_id)}}}}}'
    )
    return event(
        EventType.EXECUTION_STARTED,
        now,
        rest=f',"Name":{quoted(name)},"Version":{quoted_or_null(version)}'
        f',"Input":{quoted_or_null(input_text)},"OrchestrationInstance":'
        f'{{"InstanceId":{quoted(instance_id)},"ExecutionId":{quoted(execution)}}}'
        f',"ParentInstance":{parent},"Generation":{"null" if generation is None else generation}',
    )


def task_scheduled(now: int, task: int, name: str, input_text: str) -> str:
    """Return the event of a scheduled activity; its input is JSON text in a JSON array."""
    arguments = quoted(f"[{quoted(input_text)}]")
    return event(
        EventType.TASK_SCHEDULED,
        now,
        task,
        f',"Name":{quoted(name)},"Version":null,"Input":{arguments}',
    )


def child_created(now: int, task: int, name: str, instance_id: str, input_text: str) -> str:
    """Return the event which records that a sub-orchestration was scheduled."""
    return event(
        EventType.CHILD_CREATED,
        now,
        task,
        f',"Name":{quoted(name)},"InstanceId":{quoted(instance_id)},"Input":{quoted(input_text)}',
    )


def timer_created(now: int, task: int, due: int) -> str:
    """Return the event which records the creation of a timer that fires at the time `due`."""
    return event(EventType.TIMER_CREATED, now, task, f',"FireAt":"{format_timestamp(due)}"')


def timer_fired(now: int, task: int, due: int) -> str:
    """Return the event which records that a timer with the due time `due` has fired."""
    return event(
        EventType.TIMER_FIRED, now, rest=f',"TimerId":{task},"FireAt":"{format_timestamp(due)}"'
    )


def completed(kind: EventType, now: int, task: int, result: str | None) -> str:
    """Return the event TASK_COMPLETED or CHILD_COMPLETED (`kind`)."""
    return event(kind, now, rest=f',"TaskScheduledId":{task},"Result":{quoted_or_null(result)}')


def failed(kind: EventType, now: int, task: int, reason: str, details: str) -> str:
    """Return the event TASK_FAILED or CHILD_FAILED (`kind`)."""
    return event(
        kind,
        now,
        rest=f',"TaskScheduledId":{task},"Reason":{quoted(reason)},"Details":{quoted(details)}',
    )


def event_raised(now: int, name: str, input_text: str) -> str:
    """Return the event which records that a client has raised an external event."""
    return event(
        EventType.EVENT_RAISED, now, rest=f',"Name":{quoted(name)},"Input":{quoted(input_text)}'
    )


def execution_completed(now: int, event_id: int, status: str, result: str | None) -> str:
    """Return the event which records the end of an execution. `result` is JSON text."""
    return event(
        EventType.EXECUTION_COMPLETED,
        now,
        event_id,
        f',"OrchestrationStatus":{quoted(status)},"Result":{quoted_or_null(result)}',
    )


def dump_json(value: object) -> str:
    """Return a value as compact JSON text. Characters outside ASCII are not escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can express
        return json.dumps(value, separators=(",", ":"))
    return text


def json_or_string(text: str) -> str:
    """Return JSON text, or else a JSON string, as the extension does with reasons."""
    try:
        check_json(text)
    except (ValueError, RecursionError):
        return quoted(text)
    return text


def check_json(text: str) -> None:
    """Raise ValueError or RecursionError if a text is not JSON, or contains NaN or Infinity."""
    json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON does not allow the value {constant}")
