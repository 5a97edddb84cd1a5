"""The input of a job's orchestration: the request, and what else has to outlive this process.

It travels as JSON text in a JSON string, never as an object: the Durable SDK turns any object that
has `__class__`, `__module__` and `__data__` into an instance of that class, and part of a request
is the caller's own JSON.
"""

import json
from dataclasses import dataclass

from contract.codec import request_from_json, request_to_json
from contract.fields import Json
from contract.messages import JobRequest
from gateway.callers import OPEN_TENANT
from gateway.tracing import trace_id


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

    @property
    def trace_id(self) -> str | None:
        """The trace that the job belongs to."""
        return trace_id(self.traceparent)

    def request(self) -> JobRequest:
        """The request with its payload, still without a reply URL."""
        return request_from_json(json.loads(self.text)["request"])


def write(request: JobRequest, traceparent: str | None, tenant: str = OPEN_TENANT) -> Ticket:
    """A ticket for a new job. The request has no reply URL yet: its token stays out of history."""
    body = request_to_json(request)
    text = json.dumps(
        {"request": body, "traceparent": traceparent, "tenant": tenant},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    return _ticket(text, body, traceparent, tenant)


def read(text: str) -> Ticket:
    """The ticket in this text; ValueError, KeyError or TypeError where it is none."""
    value = json.loads(text)
    return _ticket(text, value["request"], value["traceparent"], value.get("tenant", OPEN_TENANT))


def _ticket(text: str, request: dict[str, Json], traceparent: str | None, tenant: str) -> Ticket:
    return Ticket(
        text=text,
        job_id=request["job_id"],
        model=request["model"],
        created_at=request["created_at"],
        deadline=request["deadline"],
        traceparent=traceparent,
        tenant=tenant,
    )
