"""The routes under /v1/jobs.

They list the caller's jobs, get a job, its result or its timeline, or cancel a job.
"""

import asyncio
import base64
import binascii
import contextlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from mimetypes import guess_extension
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from typing_extensions import TypedDict
from uuid_utils import uuid7

from contract.catalogue import Catalogue
from contract.errors import UnknownModel
from contract.media import essence
from contract.messages import Fields, InlineBytes, InlineJson, PayloadRef, payload_from_json
from contract.names import EVENT_CANCEL, job_path, webhook_instance
from gateway.durable import Durable, HistoryEvent, InstanceSnapshot, RuntimeStatus
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.http import problems
from gateway.http.openapi.operations import (
    IF_NONE_MATCH,
    NOT_MODIFIED,
    PREFER,
    job_problem_responses,
    problem_responses,
)
from gateway.http.problems import HttpProblem
from gateway.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    TextRoute,
    caller_of,
    check_job_id,
    durable_of,
    encode_json,
    find_own_instance,
    find_own_job,
    parse_limit,
    parse_prefer,
    refuse_unknown_query,
    services_of,
    unknown_job,
)
from gateway.http.responses import (
    RETRY_AFTER_SECONDS,
    add_queue_position,
    answer_conditionally,
    check_match,
    json_response,
)
from gateway.jobs.listing import IdRange, id_at, list_newest
from gateway.jobs.model import (
    JobOutcome,
    JobResource,
    JobStatus,
    Record,
    Ticket,
    final_record,
    initial_record_of,
    is_final,
    job_resource,
    priority_of,
    read_ticket,
    recorded_output,
    tenant_of,
)
from gateway.jobs.timeline import JobEvidence, Timeline, build_timeline, read_notes
from gateway.webhooks.orchestrator import WebhookDelivery, read_delivery_log

router = APIRouter(tags=["jobs"], route_class=TextRoute)


class JobPageLinks(TypedDict):
    """The links of a page of jobs. `next` is the path of the next page."""

    next: str | None


class JobListPage(TypedDict):
    """A page of jobs, newest first. Even an empty page can have a next page."""

    jobs: list[JobResource]
    next_cursor: str | None
    links: JobPageLinks


_RETRY: Final = {"Retry-After": str(RETRY_AFTER_SECONDS)}

LINK_LIFETIME: Final = timedelta(minutes=15)

_OPTIONS: Final = ("cursor", "limit", "model", "status")
_CURSOR: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}g?")
_JOB_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# The clock of another app instance may be ahead by this time. A larger value costs empty queries.
_SKEW_MS: Final = 2_000
# A timer deletes a history some time after its retention has ended.
_PURGE_DELAY: Final = timedelta(hours=1)

# How many outcomes are read from the blob storage at the same time for a page.
_READS_AT_ONCE: Final = 16

_NOT_ENDED: Final = frozenset(status for status in RuntimeStatus if not status.is_final)
_ENDED: Final = frozenset(status for status in RuntimeStatus if status.is_final)
_RUNTIME_STATUSES: Final[Mapping[JobStatus, frozenset[RuntimeStatus]]] = {
    JobStatus.QUEUED: _NOT_ENDED,
    JobStatus.RUNNING: _NOT_ENDED,
    JobStatus.CANCELLING: _NOT_ENDED,
    # A final status of the job is possible for each way in which its orchestration ended.
    **{status: _ENDED for status in JobStatus if status.is_final},
}


@router.get(
    "/v1/jobs/{job_id}",
    summary="Get a job",
    response_model=JobResource,
    response_description="The job, in any status",
    responses={**job_problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [PREFER, IF_NONE_MATCH]},
)
async def get_job(request: Request, job_id: str) -> Response:
    """Return a job. With `Prefer: wait=N`, first wait up to N seconds for the end of the job."""
    refuse_unknown_query(request)
    preference = parse_prefer(request.headers.getlist("prefer"))
    services = services_of(request)
    with services.waiters.waiting(check_job_id(job_id)) as waiter:
        found = await find_own_job(request, job_id)
        if not is_final(found) and (wait_seconds := preference.wait_seconds):
            durable = durable_of(request)
            final = await services.jobs.wait(durable, job_id, found, waiter, wait_seconds)
            found = final or found
    response = await _job_response(request, job_id, found)
    if applied := preference.applied(answered_async=False):
        response.headers["Preference-Applied"] = applied
    return answer_conditionally(request, response)


async def _job_response(request: Request, job_id: str, found: Record) -> Response:
    """Return the response that shows the current state of a job."""
    services = services_of(request)
    found = await services.progress.add_to(job_id, found)
    job = job_resource(job_id, found)
    headers = {"Vary": "Prefer"}
    if not is_final(found):
        headers |= await add_queue_position(
            job, priority_of(found), services.catalogue, services.estimates
        )
    return json_response(job, headers=headers)


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="Get a job's result",
    response_model=None,
    responses={
        200: {"description": "The result", "content": {"*/*": {}}},
        202: {"model": JobResource, "description": "The job has not ended yet"},
        303: {
            "description": "The result is large; `Location` is a URL that is valid for 15 minutes"
        },
        **job_problem_responses(400, 404, 409, 412, 500, 503),
        **NOT_MODIFIED,
    },
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get_result(request: Request, job_id: str) -> Response:
    """Return a job's result; 202 if the job has not ended, or 303 if the result is large."""
    refuse_unknown_query(request)
    found = await find_own_job(request, job_id)
    if found["status"] != JobStatus.SUCCEEDED:
        found = await services_of(request).progress.add_to(job_id, found)
    job = job_resource(job_id, found)
    if not is_final(found):
        return json_response(job, 202, {"Location": job_path(job_id), **_RETRY})
    if found["status"] != JobStatus.SUCCEEDED:
        raise HttpProblem(
            problems.NO_RESULT,
            f"the job has no result, because its status is {found['status']}",
            job=job,
        )
    return await _result_response(request, job_id, found)


@router.get(
    "/v1/jobs/{job_id}/timeline",
    summary="Get a job's timeline",
    response_model=Timeline,
    response_description="The steps of the job, with the duration and the share of each",
    responses={**problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get_timeline(request: Request, job_id: str) -> Response:
    """Return where the time of a job went, with a row for each delivery to a worker.

    The durations of the steps add up to `total_ms`. The timeline of a job that has not ended shows
    what is known until now.
    """
    refuse_unknown_query(request)
    services, durable = services_of(request), durable_of(request)
    instance, found = await find_own_instance(request, job_id)
    ticket = read_ticket(instance.input)
    found = await services.progress.add_to(job_id, found)
    outcome, notes, history, webhook = await asyncio.gather(
        services.outcomes.find(job_id),
        read_notes(services.blobs, services.tokens, ticket),
        _read_history(durable, job_id),
        _read_webhook(durable, ticket),
    )
    if outcome is not None and not is_final(found):
        found = final_record(found, outcome)  # the job ended after the first read
    evidence = JobEvidence(ticket, found, outcome, history, notes, webhook)
    return answer_conditionally(request, json_response(build_timeline(evidence, services.clock())))


async def _read_history(durable: Durable, job_id: str) -> Sequence[HistoryEvent]:
    """Return the history of a job's orchestration; empty if the host cannot show it."""
    try:
        return await durable.history(job_id)
    except Unavailable:
        return ()


async def _read_webhook(durable: Durable, ticket: Ticket) -> WebhookDelivery | None:
    """Return the delivery log of a job's webhook; None if the job has no webhook."""
    if ticket.webhook_url is None:
        return None
    return read_delivery_log(await durable.status(webhook_instance(ticket.job_id)))


async def _result_response(request: Request, job_id: str, found: Record) -> Response:
    payload = payload_from_json(Fields(found["result"]))
    match payload:
        case InlineJson(value):
            data = encode_json(value)
        case InlineBytes(_, data):
            pass
        case PayloadRef():
            return await _redirect_to_result(request, job_id, payload)
    # Browsers must use this media type and not guess another from the content.
    headers = {"X-Content-Type-Options": "nosniff"}
    return answer_conditionally(
        request, Response(data, media_type=payload.media_type, headers=headers)
    )


async def _redirect_to_result(request: Request, job_id: str, result: PayloadRef) -> Response:
    """Return a redirect to a URL from which the caller can read a large result.

    Raises the problem `unknown-job` if the result has been deleted.
    """
    services = services_of(request)
    if await services.blobs.look(result.blob) is None:
        raise HttpProblem(
            problems.UNKNOWN_JOB, "the result no longer exists, because its retention has ended"
        )
    file_name = f"{job_id}{guess_extension(essence(result.media_type)) or '.bin'}"
    url = await services.links.to_read(
        result.blob, result.media_type, file_name, services.clock() + LINK_LIFETIME
    )
    # The URL gives access to the result, so caches must not store it.
    return Response(status_code=303, headers={"Location": url, "Cache-Control": "no-store"})


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Cancel a job",
    response_model=JobResource,
    response_description="The job had already ended",
    responses={
        202: {"model": JobResource, "description": "The job is being cancelled"},
        **job_problem_responses(400, 404, 412, 503),
    },
)
async def cancel(request: Request, job_id: str) -> Response:
    """Cancel a job if it has not ended. A repeated request has no further effect."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = await find_own_job(request, job_id)
    if "if-match" in request.headers:
        check_match(request, await _job_response(request, job_id, found))
    if not is_final(found):
        try:
            if await _cancel(request, job_id, found):
                job = job_resource(
                    job_id, await services.progress.add_to_if_available(job_id, found)
                )
                cancelling = {**job, "status": JobStatus.CANCELLING.value}
                return json_response(cancelling, 202, {"Location": job_path(job_id), **_RETRY})
        except UnknownInstance:
            raise unknown_job(job_id) from None
        # The job ended before the cancellation was recorded.
        found = await find_own_job(request, job_id)
    return json_response(job_resource(job_id, await services.progress.add_to(job_id, found)))


async def _cancel(request: Request, job_id: str, found: Record) -> bool:
    """Cancel a queued job, or order the worker of a running job to stop the job.

    Returns False if the job ended before it could be cancelled. The cancellation or the order is
    stored before this function returns, so it is not lost if this process dies afterwards. Raises
    Unavailable or UnknownInstance.
    """
    services, durable = services_of(request), durable_of(request)
    started_at = await services.progress.order_stop(job_id, found["model"])
    try:
        if started_at is None:
            cancelled = JobOutcome.cancelled(services.clock())
            recorded = await services.jobs.finish(durable, job_id, cancelled)
            return recorded.status is JobStatus.CANCELLED
        with contextlib.suppress(Unavailable):  # the orchestration also checks for the order
            order = {"started_at": started_at}
            await durable.raise_event(job_id, EVENT_CANCEL, order)
    except FinalInstance:
        return False
    return True


@router.get(
    "/v1/jobs",
    summary="List the caller's jobs",
    response_model=JobListPage,
    response_description="A page of jobs; `Link` contains the URL of the next page",
    responses={**problem_responses(400, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def list_jobs(
    request: Request,
    model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
    status: Annotated[str | None, Query(description="Only jobs in this status.")] = None,
    limit: Annotated[
        str | None,
        Query(description=f"Jobs on a page, from 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent."),
    ] = None,
    cursor: Annotated[
        str | None, Query(description="The `next_cursor` of the previous page.")
    ] = None,
) -> Response:
    """List the caller's jobs, newest first. Even an empty page can have a `next_cursor`."""
    refuse_unknown_query(request, _OPTIONS)
    services = services_of(request)
    wanted_status = _parse_status(status)
    wanted_model = _check_model(services.catalogue, model)
    tenant = caller_of(request).tenant

    def select(job_id: str, instance: InstanceSnapshot) -> tuple[str, InstanceSnapshot] | None:
        if not _JOB_ID.fullmatch(job_id):
            return None
        found = recorded_output(instance) or initial_record_of(instance)
        if found is None or tenant_of(found) != tenant:
            return None
        if wanted_model not in {None, found["model"]} or not _may_have_status(
            instance, found, wanted_status
        ):
            return None
        return job_id, instance

    page = await list_newest(
        durable_of(request),
        _id_range(cursor, services.clock(), services.retention),
        _RUNTIME_STATUSES[wanted_status] if wanted_status else (),
        parse_limit(limit),
        select,
    )
    shown = await _read_records(request, page.jobs)
    jobs = [
        job_resource(job_id, found)
        for job_id, found in shown
        if wanted_status in {None, found["status"]}
    ]
    return answer_conditionally(request, _page_response(request, jobs, page.below))


def _may_have_status(instance: InstanceSnapshot, found: Record, wanted: JobStatus | None) -> bool:
    """Return whether a job can have the status `wanted`.

    The outcome of the job has not been read yet. Therefore the answer is derived from the status of
    the job's orchestration. If `wanted` is None, the answer is always true.
    """
    if wanted is None or found["status"] == wanted:
        return True
    if instance.runtime_status.is_final:
        # If there is no final record, the recorded outcome decides, which is read later.
        return wanted.is_final and not is_final(found)
    return not wanted.is_final


async def _read_records(
    request: Request, page: list[tuple[str, InstanceSnapshot]]
) -> list[tuple[str, Record]]:
    """Return the current record of each job on a page. Jobs that no longer exist are omitted.

    Raises Unavailable.
    """
    services = services_of(request)
    slots = asyncio.Semaphore(_READS_AT_ONCE)

    async def read(job_id: str, instance: InstanceSnapshot) -> tuple[str, Record] | None:
        async with slots:
            found = await services.jobs.record_of(job_id, instance)
            if found is None:
                return None
            return job_id, await services.progress.add_to(job_id, found)

    found = await asyncio.gather(*(read(job_id, instance) for job_id, instance in page))
    return [pair for pair in found if pair is not None]


def _page_response(request: Request, jobs: list[JobResource], below: str | None) -> Response:
    next_cursor = base64.urlsafe_b64encode(below.encode()).decode() if below else None
    given = {name: value for name, value in request.query_params.items() if name != "cursor"}
    following = next_cursor and f"/v1/jobs?{urlencode({**given, 'cursor': next_cursor})}"
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    page: JobListPage = {
        "jobs": jobs,
        "next_cursor": next_cursor,
        "links": {"next": following},
    }
    return json_response(page, headers=headers)


def _parse_status(text: str | None) -> JobStatus | None:
    try:
        return None if text is None else JobStatus(text)
    except ValueError:
        known = ", ".join(JobStatus)
        raise HttpProblem(problems.MALFORMED_REQUEST, f"status: expected one of {known}") from None


def _check_model(catalogue: Catalogue, name: str | None) -> str | None:
    try:
        return None if name is None else catalogue.model(name).name
    except UnknownModel as error:
        raise HttpProblem(problems.MALFORMED_REQUEST, f"model: {error}") from None


def _id_range(cursor: str | None, now: datetime, retention: timedelta) -> IdRange:
    """Return the range of job ids to list.

    Every job in the range is older than the cursor, and is not older than `retention`.
    """
    # The newest possible id: the time of a new id, plus the clock skew between app instances.
    newest_ms = int(uuid7().hex[:12], 16) + _SKEW_MS
    digits = f"{newest_ms:012x}"
    below = f"{digits[:8]}-{digits[8:]}"
    if cursor:
        below = min(below, _parse_cursor(cursor))
    return IdRange(below, id_at(now - retention - _PURGE_DELAY))


def _parse_cursor(cursor: str) -> str:
    try:
        below = base64.b64decode(cursor[:100], altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        below = ""
    if not _CURSOR.fullmatch(below):
        raise HttpProblem(
            problems.MALFORMED_REQUEST,
            "cursor: this value is not valid; use the next_cursor of the previous page",
        )
    return below
