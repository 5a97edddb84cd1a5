"""The input of a job's orchestration: the request, and what else has to outlive this process.

It travels as JSON text in a JSON string, never as an object: the Durable SDK turns any object that
has `__class__`, `__module__` and `__data__` into an instance of that class, and part of a request
is the caller's own JSON.
"""

import json
from dataclasses import dataclass, field
from typing import Final

from contract.codec import request_from_json, request_to_json
from contract.fields import Json
from contract.messages import JobRequest
from gateway.access.callers import OPEN_TENANT
from gateway.queueing.priority import Priority
from gateway.tracing import trace_id

VERSION: Final = 2
"""The tickets of version 1, which do not name it, belong to jobs without a recorded outcome."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One job as the orchestration sees it: the parts, and the text they were read from."""

    text: str
    job_id: str
    model: str
    created_at: str
    deadline: str
    traceparent: str | None
    tenant: str = OPEN_TENANT
    webhook_url: str | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL
    version: int = VERSION

    @property
    def trace_id(self) -> str | None:
        """The trace that the job belongs to."""
        return trace_id(self.traceparent)

    def request(self) -> JobRequest:
        """The request with its payload, still without a reply URL."""
        return request_from_json(json.loads(self.text)["request"])


def write(
    request: JobRequest,
    traceparent: str | None,
    tenant: str = OPEN_TENANT,
    webhook_url: str | None = None,
    priority: Priority = Priority.NORMAL,
) -> Ticket:
    """A ticket for a new job. The request has no reply URL yet: its token stays out of history."""
    body = request_to_json(request)
    value = {
        "version": VERSION,
        "request": body,
        "traceparent": traceparent,
        "tenant": tenant,
    }
    if webhook_url is not None:
        value["webhook_url"] = webhook_url
    if priority is not Priority.NORMAL:
        value["priority"] = priority.value
    text = json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    return _ticket(text, value)


def read(text: str) -> Ticket:
    """The ticket in this text; ValueError, KeyError or TypeError where it is none."""
    return _ticket(text, json.loads(text))


def _ticket(text: str, value: Json) -> Ticket:
    request = value["request"]
    return Ticket(
        text=text,
        job_id=request["job_id"],
        model=request["model"],
        created_at=request["created_at"],
        deadline=request["deadline"],
        traceparent=value["traceparent"],
        tenant=value.get("tenant", OPEN_TENANT),
        webhook_url=value.get("webhook_url"),
        priority=Priority(value.get("priority", Priority.NORMAL)),
        version=value.get("version", 1),
    )
