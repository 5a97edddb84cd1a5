"""/v1/jobs/{id}: look at a job, get its result alone, cancel it."""

import contextlib

from fastapi import APIRouter, Request, Response

from contract.codec import payload_from_json
from contract.fields import Fields
from contract.messages import InlineBytes, InlineJson, PayloadRef
from contract.names import EVENT_CANCEL, job_path
from contract.status import JobStatus
from gateway import problems
from gateway.api.conditional import check_match, conditional
from gateway.api.context import (
    durable_of,
    jobs_of,
    known_job_id,
    owned,
    refuse_unknown_query,
    services_of,
    unknown_job,
)
from gateway.api.large import see_other
from gateway.api.openapi.operations import (
    CANCEL_RESPONSES,
    IF_NONE_MATCH,
    JOB_RESPONSES,
    PREFER,
    RESULT_RESPONSES,
)
from gateway.api.prefer import parse
from gateway.api.queueing import RETRY_AFTER_SECONDS, placed
from gateway.api.responses import json_response
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs import record
from gateway.jobs.live import live, live_at_best, order_stop
from gateway.jobs.outcome import Outcome
from gateway.jobs.record import Record
from gateway.jobs.resource import job_resource
from gateway.problems import Problem
from gateway.strict_json import encode

router = APIRouter(tags=["jobs"])

_RETRY = {"Retry-After": str(RETRY_AFTER_SECONDS)}


@router.get(
    "/v1/jobs/{job_id}",
    summary="Look at a job",
    responses=JOB_RESPONSES,
    openapi_extra={"parameters": [PREFER, IF_NONE_MATCH]},
    response_model=None,
)
async def get_job(request: Request, job_id: str) -> Response:
    """The job as it is now or, with `Prefer: wait=N`, as soon as it has ended."""
    refuse_unknown_query(request)
    preference = parse(request.headers.getlist("prefer"))
    with services_of(request).waiters.waiting(known_job_id(job_id)) as waiter:
        found = await owned(request, job_id)
        if not record.is_final(found) and preference.wait_seconds:
            jobs = jobs_of(request)
            found = await jobs.wait(job_id, found, waiter, preference.wait_seconds) or found
    response = await _shown(request, job_id, found)
    if applied := preference.applied(answered_async=False):
        response.headers["Preference-Applied"] = applied
    return conditional(request, response)


async def _shown(request: Request, job_id: str, found: Record) -> Response:
    """The job as it is now."""
    found = await live(services_of(request), job_id, found)
    job = job_resource(job_id, found)
    headers = {"Vary": "Prefer"}
    if not record.is_final(found):
        headers |= await placed(services_of(request), job, record.priority_of(found))
    return json_response(job, headers=headers)


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="Get a job's result alone",
    responses=RESULT_RESPONSES,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    response_model=None,
)
async def get_result(request: Request, job_id: str) -> Response:
    """The result in its own media type; 202 while there is none yet."""
    refuse_unknown_query(request)
    found = await owned(request, job_id)
    if found["status"] != JobStatus.SUCCEEDED:
        found = await live(services_of(request), job_id, found)
    job = job_resource(job_id, found)
    if not record.is_final(found):
        return json_response(job, 202, {"Location": job_path(job_id), **_RETRY})
    if found["status"] != JobStatus.SUCCEEDED:
        raise Problem(problems.NO_RESULT, f"the job is {found['status']}", job=job)
    return await _result(request, job_id, found)


async def _result(request: Request, job_id: str, found: Record) -> Response:
    payload = payload_from_json(Fields(found["result"]))
    match payload:
        case InlineJson(value):
            data = encode(value)
        case InlineBytes(_, data):
            pass
        case PayloadRef():
            return await see_other(services_of(request), job_id, payload)
    # A result is shown as what it says it is, not as what a browser guesses from the bytes.
    headers = {"X-Content-Type-Options": "nosniff"}
    return conditional(request, Response(data, media_type=payload.media_type, headers=headers))


@router.delete(
    "/v1/jobs/{job_id}", summary="Cancel a job", responses=CANCEL_RESPONSES, response_model=None
)
async def cancel(request: Request, job_id: str) -> Response:
    """Cancel a job that has not ended. Idempotent."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = await owned(request, job_id)
    if "if-match" in request.headers:
        check_match(request, await _shown(request, job_id, found))
    if not record.is_final(found):
        try:
            if await _cancelled(request, job_id, found):
                job = job_resource(job_id, await live_at_best(services, job_id, found))
                cancelling = {**job, "status": JobStatus.CANCELLING.value}
                return json_response(cancelling, 202, {"Location": job_path(job_id), **_RETRY})
        except UnknownInstance:
            raise unknown_job(job_id) from None
        # It ended before the cancellation was recorded.
        found = await owned(request, job_id)
    return json_response(job_resource(job_id, await live(services, job_id, found)))


async def _cancelled(request: Request, job_id: str, found: Record) -> bool:
    """Cancel the job, or have its worker stop; return False if it has ended otherwise.

    Either is written down when this returns: it holds whatever becomes of this process, and
    whether the orchestration hears of it or not. Raises Unavailable or UnknownInstance.
    """
    services = services_of(request)
    started_at = await order_stop(services, job_id, found)
    try:
        if started_at is None:
            cancelled = Outcome.cancelled(services.clock())
            recorded = await jobs_of(request).finish(job_id, cancelled)
            return recorded.status is JobStatus.CANCELLED
        with contextlib.suppress(Unavailable):  # the orchestration finds the order by itself
            order = {"started_at": started_at}
            await durable_of(request).raise_event(job_id, EVENT_CANCEL, order)
    except FinalInstance:
        return False
    return True
