"""Lists of instances by filters, page by page; and histories as they are shown to people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emulator.functions.durable.errors import ArgumentInvalid
from emulator.functions.durable.history import EventType, micros
from emulator.functions.durable.model import FINISHED, Instance, Status
from emulator.functions.durable.records import Reader, read_page

_LONGEST_PAGE = 1000
_LAST_ROW = 2**63 - 1
_STATUSES = {status.lower(): status for status in Status}
_HIDDEN = {
    EventType.ORCHESTRATOR_STARTED,
    EventType.ORCHESTRATOR_COMPLETED,
    EventType.TASK_SCHEDULED,
    EventType.CHILD_CREATED,
    EventType.TIMER_CREATED,
}
_NAMES = {
    EventType.CHILD_COMPLETED: "SubOrchestrationInstanceCompleted",
    EventType.CHILD_FAILED: "SubOrchestrationInstanceFailed",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which instances are wanted; times in microseconds since 1970."""

    prefix: str = ""
    created_from: int | None = None
    created_to: int | None = None
    statuses: frozenset[Status] = frozenset()

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filter":
        """Read a filter from a query; what cannot be read does not filter, as in the extension."""
        names = query.get("runtimestatus", "").lower().split(",")
        return cls(
            query.get("instanceidprefix", ""),
            _time(query.get("createdtimefrom")),
            _time(query.get("createdtimeto")),
            frozenset(_STATUSES[name.strip()] for name in names if name.strip() in _STATUSES),
        )

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition, with placeholders and what belongs in them."""
        conditions, arguments = ["1"], list[Any]()
        if self.prefix:
            conditions.append("substr(id, 1, ?) = ?")
            arguments += [len(self.prefix), self.prefix]
        if self.created_from is not None:
            conditions.append("created >= ?")
            arguments.append(self.created_from)
        if self.created_to is not None:
            conditions.append("created <= ?")
            arguments.append(self.created_to)
        if self.statuses:
            conditions.append(f"status IN ({','.join('?' * len(self.statuses))})")
            arguments += sorted(map(str, self.statuses))
        return " AND ".join(conditions), arguments


def page(
    store: Reader, condition: Filter, top: str | None, token: str
) -> tuple[list[Instance], str]:
    """Return one page of instances and the token for the next, empty after the last."""
    size = _LONGEST_PAGE
    if top is not None and top.isascii() and top.isdigit() and int(top[:9]) > 0:
        size = min(int(top[:9]), _LONGEST_PAGE)
    after = 0
    if token:
        if not (token.isascii() and token.isdigit() and int(token[:20]) <= _LAST_ROW):
            raise ArgumentInvalid("The continuation token is invalid.")
        after = int(token)
    where, arguments = condition.where()
    rows = read_page(store, f"{where} AND rowid > ?", [*arguments, after], size + 1)
    more = len(rows) > size
    rows = rows[:size]
    return [instance for _, instance in rows], str(rows[-1][0]) if more else ""


def finished(store: Reader, condition: Filter) -> list[Instance]:
    """Return the finished instances that match."""
    where, arguments = condition.where()
    names = sorted(map(str, FINISHED))
    marks = ",".join("?" * len(names))
    rows = read_page(store, f"{where} AND status IN ({marks})", [*arguments, *names], -1)
    return [instance for _, instance in rows]


def shown_history(fragments: Sequence[str], *, outputs: bool) -> str:
    """Return a history as the extension shows it: causes joined to what came of them."""
    events = [event for text in fragments for event in json.loads(f"[{text}]")]
    scheduled = {
        event["EventId"]: event
        for event in events
        if event["EventType"] in {EventType.TASK_SCHEDULED, EventType.CHILD_CREATED}
    }
    shown = [
        _shown(event, scheduled.get(event.get("TaskScheduledId"), {}), outputs=outputs)
        for event in events
        if event["EventType"] not in _HIDDEN
    ]
    return json.dumps(shown)


def _shown(event: dict[str, Any], cause: dict[str, Any], *, outputs: bool) -> dict[str, Any]:
    kind = EventType(event["EventType"])
    name = _NAMES.get(kind) or "".join(part.title() for part in kind.name.split("_"))
    shown: dict[str, Any] = {"EventType": name, "Timestamp": event["Timestamp"]}
    if kind is EventType.EXECUTION_STARTED:
        shown["FunctionName"] = event["Name"]
    elif "Name" in event:
        shown["Name"] = event["Name"]
    if cause:
        shown["ScheduledTime"] = cause["Timestamp"]
        shown["FunctionName"] = cause["Name"]
    for key in ("FireAt", "Reason", "Details", "OrchestrationStatus"):
        if key in event:
            shown[key] = event[key]
    if outputs:
        for key in ("Input", "Result"):
            if event.get(key) is not None:
                shown[key] = json.loads(event[key]) if isinstance(event[key], str) else event[key]
    return shown


def _time(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat((text or "").replace(" ", "+"))
        return micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
