"""What a route finds around its request."""

import re
from collections.abc import Collection
from typing import Final

from fastapi import Request

from gateway import problems
from gateway.access.callers import Caller, Scope
from gateway.durable import Durable
from gateway.jobs import record
from gateway.jobs.jobs import Jobs
from gateway.jobs.record import Record
from gateway.problems import Problem
from gateway.services import Services
from gateway.tracing import traceparent

# Exactly what we give out. The SDK pastes an id into URLs as it is: "?" or "/" would ask the store
# something else, such as for all instances.
_JOB_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def services_of(request: Request) -> Services:
    """The process's services."""
    services: Services = request.app.state.services
    return services


def durable_of(request: Request) -> Durable:
    """The durable port of this invocation."""
    durable: Durable = request.scope["durable"]
    return durable


def jobs_of(request: Request) -> Jobs:
    """Return the jobs, as this invocation reaches them."""
    return Jobs(durable_of(request), services_of(request))


def caller_of(request: Request) -> Caller:
    """Who asks. The gate in front of the routes has found out."""
    caller: Caller = request.scope["gateway.caller"]
    return caller


async def body_of(request: Request) -> bytes:
    """The body; the problem malformed-request where it was lost on the way.

    Azure's Functions host hands over no body that comes without a Content-Length.
    """
    body = await request.body()
    if not body and "transfer-encoding" in request.headers:
        raise Problem(
            problems.MALFORMED_REQUEST,
            "no body came: send it with a Content-Length, not with Transfer-Encoding: chunked",
        )
    return body


def require(request: Request, scope: Scope) -> None:
    """Refuse a caller without the scope, where a route wants more than the gate asked for."""
    if scope not in caller_of(request).scopes:
        raise Problem(problems.FORBIDDEN, f"the key does not have the scope {scope}")


async def owned(request: Request, job_id: str) -> Record:
    """The record of one of the caller's own jobs; else the problem unknown-job.

    Another tenant's job costs the same look and has the same answer as one that does not exist.
    """
    return owned_record(request, job_id, await jobs_of(request).find(known_job_id(job_id)))


def owned_record(request: Request, job_id: str, found: Record | None) -> Record:
    """The record if there is one and it is the caller's; else the problem unknown-job."""
    if found is None or record.tenant_of(found) != caller_of(request).tenant:
        raise unknown_job(job_id)
    return found


def traceparent_of(request: Request) -> str:
    """The trace of this request, the same each time."""
    known: str | None = request.scope.get("gateway.traceparent")
    if known is None:
        known = traceparent(request.headers.get("traceparent"))
        request.scope["gateway.traceparent"] = known
    return known


def known_job_id(job_id: str) -> str:
    """The id, if it can be one of ours; else the problem unknown-job."""
    if not _JOB_ID.fullmatch(job_id):
        raise unknown_job(job_id)
    return job_id


def unknown_job(job_id: str) -> Problem:
    """The problem of an id that no job has."""
    return Problem(problems.UNKNOWN_JOB, f"there is no job {job_id[:100]!r}, or no longer")


def refuse_unknown_query(request: Request, known: Collection[str] = ()) -> None:
    """A misspelt option, or one of two, would be silently without effect: say so instead."""
    for name in request.query_params:
        if name not in known:
            wanted = f"; known are {', '.join(sorted(known))}" if known else ""
            raise Problem(
                problems.MALFORMED_REQUEST, f"unknown query parameter {name[:100]!r}{wanted}"
            )
        if len(request.query_params.getlist(name)) > 1:
            raise Problem(problems.MALFORMED_REQUEST, f"{name}: is given more than once")
