"""The routes under /v1/jobs, which list, search, show and cancel jobs."""

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from mimetypes import guess_extension
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict
from uuid_utils import uuid7

from contract.catalogue import Catalogue
from contract.errors import UnknownModel
from contract.media import essence
from contract.messages import (
    FailureCode,
    Fields,
    InlineBytes,
    InlineJson,
    Payload,
    PayloadRef,
    format_time,
    payload_from_json,
)
from contract.names import webhook_instance
from gateway import problems
from gateway.batches.ids import line_id, line_of
from gateway.durable import Durable, HistoryEvent
from gateway.errors import Unavailable, UnknownInstance
from gateway.http.event_stream import EventStreamResponse, JobEvents, parse_after
from gateway.http.openapi.operations import (
    AFTER_OPTION,
    EVENTS,
    IF_NONE_MATCH,
    LAST_EVENT_ID,
    NOT_MODIFIED,
    PREFER,
    Responses,
    job_problem_responses,
    problem_responses,
    query_option,
)
from gateway.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    TextRoute,
    caller_of,
    check_job_id,
    durable_of,
    find_batch,
    find_own_job,
    find_visible_instance,
    noticing_hang_up,
    parse_limit,
    parse_prefer,
    parse_time,
    refuse_unknown_query,
    require_scope,
    services_of,
    shown_job,
    unknown_job,
    visible_tenant,
)
from gateway.http.responses import (
    RETRY_AFTER_SECONDS,
    add_queue_position,
    answer_conditionally,
    check_match,
    json_response,
)
from gateway.jobs.children import read_children
from gateway.jobs.lifecycle import OutcomeStore
from gateway.jobs.listing import IdRange, id_at, searched_since
from gateway.jobs.model import (
    JobOutcome,
    JobResource,
    JobStatus,
    Record,
    Ticket,
    Time,
    WebhookDelivery,
    add_text_result,
    final_record,
    is_final,
    job_path,
    job_resource,
    outcome_of,
    read_ticket,
    tenant_of,
)
from gateway.jobs.search import ANY_ENDING, CANCELLED_CODE, JOB_ID, JobFilter
from gateway.jobs.timeline import (
    MAX_SHOWN_CHILDREN,
    JobEvidence,
    JobTimeline,
    build_timeline,
    read_notes,
)
from gateway.json_text import encode_json
from gateway.keys import Scope
from gateway.problems import HttpProblem, malformed
from gateway.submission.parse import MAX_LABEL_CHARACTERS
from gateway.webhooks.orchestrator import read_delivery_log

_log = logging.getLogger(__name__)

router = APIRouter(tags=["jobs"], route_class=TextRoute)


class JobPageLinks(TypedDict):
    """The links of a page of jobs. `next` is the path of the next page."""

    next: str | None


class JobListPage(TypedDict):
    """A page of jobs, newest first. Even an empty page can have a next page."""

    jobs: list[JobResource]
    searched_back_to: Annotated[
        Time,
        Field(
            description="This page and the earlier pages have all matching jobs whose submit began "
            "at this time or later."
        ),
    ]
    next_cursor: str | None
    links: JobPageLinks


_RETRY: Final = {"Retry-After": str(RETRY_AFTER_SECONDS)}

LINK_LIFETIME: Final = timedelta(minutes=15)

_OPTIONS: Final = (
    *(
        "batch",
        "code",
        "created_after",
        "created_before",
        "cursor",
        "id",
        "label",
        "limit",
        "metadata",
    ),
    *("model", "status", "tenant"),
)
_BATCH_OPTIONS: Final = frozenset({"batch", "code", "cursor", "limit", "status", "tenant"})
_BAD_CURSOR: Final = "cursor: this value is not valid; use the next_cursor of the previous page"
_CODE: Final = re.compile("[a-z][a-z0-9-]{0,99}")
_ID_PREFIX: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}\*")
_CURSOR: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}g?")

# The clock of another app instance may be ahead by this time. A larger value costs empty queries.
_SKEW_MS: Final = 2_000

TENANT_OPTION: Final = query_option(
    "The tenant whose jobs to show, or `*` for all tenants. Other tenants need the "
    "scope `ops:read` or `admin`. If absent: all tenants for a key with `ops:read`, otherwise the "
    "key's own tenant."
)

# A timer deletes a history some time after its retention has ended.
_PURGE_DELAY: Final = timedelta(hours=1)


@router.get(
    "/v1/jobs/{job_id}",
    summary="Get a job",
    response_model=JobResource,
    response_description="The job, in any status",
    responses={**job_problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [PREFER, IF_NONE_MATCH]},
)
async def get_job(
    request: Request, job_id: str, tenant: Annotated[str | None, TENANT_OPTION] = None
) -> Response:
    """Return a job. With `Prefer: wait=N`, first wait up to N seconds for the end of the job."""
    refuse_unknown_query(request, ("tenant",))
    preference = parse_prefer(request.headers.getlist("prefer"))
    services = services_of(request)
    check_job_id(job_id)
    wait_seconds = preference.wait_seconds or 0
    # The end of a job that a request waits for here is not told to other instances.
    waiting = services.waiters.waiting(job_id) if wait_seconds else nullcontext()
    with waiting as ended:
        _, found = await find_visible_instance(request, job_id, tenant)
        if ended is not None and not is_final(found):
            durable = durable_of(request)
            with noticing_hang_up(request):
                final = await services.jobs.wait(durable, job_id, found, ended, wait_seconds)
            found = final or found
    response = await _job_response(request, job_id, found)
    if applied := preference.applied(answered_async=False):
        response.headers["Preference-Applied"] = applied
    return answer_conditionally(request, response)


async def _job_response(request: Request, job_id: str, found: Record) -> Response:
    """Return the response that shows the current state of a job."""
    services = services_of(request)
    found = await services.progress.add_to(job_id, found)
    found = await add_text_result(services.payloads, found)
    job = shown_job(request, job_id, found)
    headers = {"Vary": "Prefer"}
    if not is_final(found):
        headers |= await add_queue_position(
            job, found, services.catalogue, services.estimates, services.gate
        )
    return json_response(job, headers=headers)


# A browser may show a result of these media types. Results of all others, such as HTML and SVG,
# could run scripts with the gateway's origin, which can read the API key of the pages.
_PASSIVE: Final = re.compile(
    r"(?:image/(?:avif|bmp|gif|jpeg|png|tiff|webp)|audio/[a-z0-9.-]+|text/plain|application/json)"
    r"(?:;[^,]*)?",
    re.ASCII | re.IGNORECASE,
)

_REDIRECT_OPTION: Final = query_option(
    "`false`: instead of 303, the status is 200, `Location` has the URL, and the body "
    "has `url`, `media_type`, `size_bytes` and `expires_at`. For web pages of other origins, which "
    "cannot follow the redirect. Default: `true`."
)


def _result_responses() -> Responses:
    return {
        200: {
            "description": "The result; with `redirect=false`, the link to a large result as JSON",
            "content": {"*/*": {}},
        },
        202: {"model": JobResource, "description": "The job has not ended yet"},
        303: {
            "description": "The result is large; `Location` is a URL that is valid for 15 minutes"
        },
        **job_problem_responses(400, 404, 409, 412, 500, 503),
        **NOT_MODIFIED,
    }


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="Get a job's result",
    response_model=None,
    responses=_result_responses(),
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get_result(
    request: Request, job_id: str, redirect: Annotated[str | None, _REDIRECT_OPTION] = None
) -> Response:
    """Return a job's result; 202 if the job has not ended, or 303 if the result is large."""
    return await _read_result(request, job_id, None, redirect)


@router.get(
    "/v1/jobs/{job_id}/result/{name}",
    summary="Get a named result of a job",
    response_model=None,
    responses=_result_responses(),
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get_named_result(
    request: Request,
    job_id: str,
    name: str,
    redirect: Annotated[str | None, _REDIRECT_OPTION] = None,
) -> Response:
    """Return a named result of a job, for example a picture beside the job's JSON result.

    The status is 202 if the job has not ended, and 303 if the result is large.
    """
    return await _read_result(request, job_id, name, redirect)


async def _read_result(
    request: Request, job_id: str, name: str | None, redirect: str | None
) -> Response:
    """Return a result, or a link to a large one; 202 with the job if it has not ended."""
    refuse_unknown_query(request, ("redirect",))
    if redirect not in {None, "true", "false"}:
        raise malformed("redirect: expected true or false")
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
    named = found.get("results", {})
    if name is not None and name not in named:
        raise HttpProblem(
            problems.UNKNOWN_RESULT,
            f"the job has no named result {name[:100]!r}; its named results are: "
            f"{', '.join(named) or 'none'}",
            job=job,
        )
    payload = payload_from_json(Fields(found["result"] if name is None else named[name]))
    file_stem = job_id if name is None else f"{job_id}-{name}"
    return await _result_response(request, payload, file_stem, redirects=redirect != "false")


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job",
    response_model=None,
    responses={
        200: {"description": "The events of the job", "content": EVENTS},
        **job_problem_responses(400, 404, 429, 503),
    },
    openapi_extra={"parameters": [LAST_EVENT_ID]},
)
async def get_events(
    request: Request, job_id: str, after: Annotated[str | None, AFTER_OPTION] = None
) -> Response:
    """Return the events of a job as server-sent events, from the first one or after an id.

    The last event is `end`, with the job. Models that do not stream have `progress` and `end` only.
    """
    refuse_unknown_query(request, ("after",))
    key = parse_after(request.headers.getlist("last-event-id"), after)
    with ExitStack() as slot:
        slot.enter_context(services_of(request).streams.opening(caller_of(request).tenant))
        found = await find_own_job(request, job_id)
        events = JobEvents(request, job_id, found, key, show=partial(shown_job, request))
        return EventStreamResponse(events.pieces(), slot.pop_all(), events.resume)


@router.get(
    "/v1/jobs/{job_id}/timeline",
    summary="Get a job's timeline",
    response_model=JobTimeline,
    response_description="The steps of the job, with the duration and the share of each",
    responses={**problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def get_timeline(
    request: Request, job_id: str, tenant: Annotated[str | None, TENANT_OPTION] = None
) -> Response:
    """Return where the time of a job went, with a row for each delivery to a worker.

    The durations of the steps add up to `total_ms`. The timeline of a job that has not ended shows
    what is known until now.
    """
    refuse_unknown_query(request, ("tenant",))
    services, durable = services_of(request), durable_of(request)
    instance, found = await find_visible_instance(request, job_id, tenant)
    ticket = read_ticket(instance.input)
    found = await services.progress.add_to(job_id, found)
    outcome, notes, history, webhook, children = await asyncio.gather(
        _find_outcome(services.outcomes, job_id, ticket),
        read_notes(
            services.blobs,
            services.tokens,
            ticket.job_id,
            datetime.fromisoformat(ticket.deadline),
        ),
        _read_history(durable, job_id),
        _read_webhook(durable, ticket),
        _read_children(request, job_id, found),
    )
    if outcome is not None and not is_final(found):
        found = final_record(found, outcome)  # the job ended after the first read
    if not caller_of(request).is_operator:
        notes = [replace(note, traceback=None) for note in notes]
    evidence = JobEvidence(ticket, found, outcome, history, notes, webhook, children)
    return answer_conditionally(request, json_response(build_timeline(evidence, services.clock())))


async def _read_children(request: Request, job_id: str, found: Record) -> list[tuple[str, Record]]:
    """Return the ids and records of a job's children. Only a model with progress can have some."""
    services = services_of(request)
    model = services.catalogue.get(found["model"])
    if model is None or not model.reports_progress:
        return []
    return await read_children(
        durable_of(request), services.jobs, services.blobs, job_id, MAX_SHOWN_CHILDREN
    )


async def _find_outcome(outcomes: OutcomeStore, job_id: str, ticket: Ticket) -> JobOutcome | None:
    """Return the job's outcome from its ticket or from `outcomes`; None if there is no outcome."""
    return outcome_of(ticket) or await outcomes.find(job_id)


async def _read_history(durable: Durable, job_id: str) -> Sequence[HistoryEvent]:
    """Return the history of a job's orchestration; empty if it cannot be read."""
    try:
        return await durable.history(job_id)
    except Unavailable:
        return ()


async def _read_webhook(durable: Durable, ticket: Ticket) -> WebhookDelivery | None:
    """Return the delivery log of a job's webhook; None if the job has no webhook."""
    if ticket.webhook_url is None:
        return None
    return read_delivery_log(await durable.status(webhook_instance(ticket.job_id)))


async def _result_response(
    request: Request, payload: Payload, file_stem: str, *, redirects: bool
) -> Response:
    match payload:
        case InlineJson(value):
            data = encode_json(value)
        case InlineBytes(_, data):
            pass
        case PayloadRef():
            return await _link_to_result(request, payload, file_stem, redirects=redirects)
    # Browsers must use this media type and not guess another from the content.
    headers = {"X-Content-Type-Options": "nosniff"}
    if not _PASSIVE.fullmatch(payload.media_type):
        headers |= {
            "Content-Disposition": f'attachment; filename="{_file_name(payload, file_stem)}"',
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
    return answer_conditionally(
        request, Response(data, media_type=payload.media_type, headers=headers)
    )


async def _link_to_result(
    request: Request, result: PayloadRef, file_stem: str, *, redirects: bool
) -> Response:
    """Return a redirect to the URL of a large result, or only the URL if `redirects` is False.

    Browsers save the result under `file_stem` with an extension. A web page of another origin needs
    the URL: after the redirect, its browser would send `Origin: null` to the blob storage, and no
    CORS rule should allow this.
    """
    if await services_of(request).blobs.look(result.blob) is None:
        raise HttpProblem(
            problems.UNKNOWN_JOB, "the result no longer exists, because its retention has ended"
        )
    return await link_to(request, result, _file_name(result, file_stem), redirects=redirects)


async def link_to(
    request: Request, result: PayloadRef, file_name: str, *, redirects: bool
) -> Response:
    """Return a redirect to the URL of a blob, or only the URL if `redirects` is False."""
    services = services_of(request)
    expires_at = services.clock() + LINK_LIFETIME
    url = await services.links.to_read(result.blob, result.media_type, file_name, expires_at)
    # The URL gives access to the result, so caches must not store it.
    headers = {"Location": url, "Cache-Control": "no-store"}
    if redirects:
        return Response(status_code=303, headers=headers)
    link = {
        "url": url,
        "media_type": result.media_type,
        "size_bytes": result.size_bytes,
        "expires_at": format_time(expires_at),
    }
    return json_response(link, headers=headers)


def _file_name(result: Payload, stem: str) -> str:
    return f"{stem}{guess_extension(essence(result.media_type)) or '.bin'}"


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
async def cancel(
    request: Request,
    job_id: str,
    tenant: Annotated[
        str | None,
        query_option(
            "The tenant of the job, or `*` for any tenant. It needs the scope `admin`. "
            "If absent: the key's own tenant."
        ),
    ] = None,
) -> Response:
    """Cancel a job if it has not ended. A repeated request has no further effect."""
    refuse_unknown_query(request, ("tenant",))
    services = services_of(request)
    found = await _find_job_to_cancel(request, job_id, tenant)
    if "if-match" in request.headers:
        check_match(request, await _job_response(request, job_id, found))
    if not is_final(found):
        try:
            if await services.cancellation.cancel(durable_of(request), job_id, found):
                _log_cancellation(request, job_id, found)
                found = await services.progress.add_to_if_available(job_id, found)
                job = _cancelled_job(request, job_id, found)
                cancelling = {**job, "status": JobStatus.CANCELLING.value}
                return json_response(cancelling, 202, {"Location": job_path(job_id), **_RETRY})
        except UnknownInstance:
            raise unknown_job(job_id) from None
        # The job ended before the cancellation was recorded.
        found = await _find_job_to_cancel(request, job_id, tenant)
    found = await services.progress.add_to(job_id, found)
    return json_response(_cancelled_job(request, job_id, found))


def _cancelled_job(request: Request, job_id: str, found: Record) -> JobResource:
    """Return the job that the caller asked to cancel, without the result of another tenant."""
    if tenant_of(found) == caller_of(request).tenant:
        return job_resource(job_id, found)
    return shown_job(request, job_id, found)


async def _find_job_to_cancel(request: Request, job_id: str, tenant: str | None) -> Record:
    """Return the job to cancel; one of another tenant needs `tenant` and the scope `admin`."""
    if tenant is None:
        require_scope(request, Scope.JOBS_WRITE)
        return await find_own_job(request, job_id)
    require_scope(request, Scope.ADMIN)
    _, found = await find_visible_instance(request, job_id, tenant)
    return found


def _log_cancellation(request: Request, job_id: str, found: Record) -> None:
    """Log who cancelled a job, if the job does not belong to the caller's tenant."""
    caller, tenant = caller_of(request), tenant_of(found)
    if tenant != caller.tenant:
        _log.info(
            "caller %.100r cancelled the job %s of the tenant %.100r",
            *(caller.logged_name, job_id, tenant),
        )


@router.get(
    "/v1/jobs",
    summary="List or search jobs",
    response_model=JobListPage,
    response_description="A page of jobs; `Link` contains the URL of the next page",
    responses={**problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def list_jobs(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    model: Annotated[
        str | None,
        query_option("Only jobs of this model, or of this version, such as `classifier:2`."),
    ] = None,
    status: Annotated[
        str | None, query_option("Only jobs in this status.", enum=list(JobStatus))
    ] = None,
    code: Annotated[
        str | None,
        query_option(
            "Only jobs that ended with this code, which is `error.code` of a job, or `cancelled`.",
            pattern=f"^{_CODE.pattern}$",
        ),
    ] = None,
    label: Annotated[
        str | None,
        query_option(
            "Only jobs with this label. A `*` at the end stands for any further text.",
            minLength=1,
            maxLength=MAX_LABEL_CHARACTERS + 1,
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        query_option(
            "Only jobs with this `NAME=VALUE` in their metadata. A `*` at the end stands for any "
            "further text."
        ),
    ] = None,
    created_after: Annotated[
        str | None,
        query_option("Only jobs that were created at this time or later.", format="date-time"),
    ] = None,
    created_before: Annotated[
        str | None,
        query_option("Only jobs that were created before this time.", format="date-time"),
    ] = None,
    id: Annotated[  # noqa: A002 - the name of the query parameter
        str | None,
        query_option(
            "Only the job with this id. A `*` after the first 4 or more characters of "
            "an id stands for any further characters.",
            pattern=f"^(?:{JOB_ID.pattern}|{_ID_PREFIX.pattern})$",
        ),
    ] = None,
    batch: Annotated[
        str | None,
        query_option(
            "The lines of the batch with this id, in their order. Only `status`, `code`, `tenant`, "
            "`limit` and `cursor` can be given with it. Without it, no lines of batches are listed."
        ),
    ] = None,
    tenant: Annotated[str | None, TENANT_OPTION] = None,
    limit: Annotated[
        str | None,
        query_option(f"Jobs on a page, from 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent."),
    ] = None,
    cursor: Annotated[str | None, query_option("The `next_cursor` of the previous page.")] = None,
) -> Response:
    """List jobs, newest first. Even an empty page can have a `next_cursor`.

    For one page, only a limited number of jobs is examined. All matching jobs that were created at
    `searched_back_to` or later are on this page or on an earlier page. `next_cursor` continues the
    search.
    """
    refuse_unknown_query(request, _OPTIONS)
    services = services_of(request)
    wanted = JobFilter(
        tenant=visible_tenant(request, tenant),
        models=_find_models(services.catalogue, model),
        status=_parse_status(status),
        code=_parse_code(code),
        label=parse_label_filter(label),
        metadata=parse_pair(metadata),
        created_after=parse_time("created_after", created_after),
        created_before=parse_time("created_before", created_before),
        id=_parse_id(id),
    )
    if batch is not None:
        return await _list_lines(request, batch, wanted, cursor, parse_limit(limit))
    oldest = _oldest_time(services.clock(), services.retention)
    ids, durable = _id_range(cursor, oldest), durable_of(request)
    page = await services.search.find(
        durable, wanted, ids, parse_limit(limit), caller_of(request).tenant
    )
    jobs = [shown_job(request, *pair) for pair in page.jobs]
    if page.below is None:
        searched_to = max(oldest, wanted.created_after or oldest)
    else:
        searched_to = searched_since(page.below)
    return answer_conditionally(request, _page_response(request, jobs, page.below, searched_to))


async def _list_lines(
    request: Request, batch_id: str, wanted: JobFilter, cursor: str | None, limit: int
) -> Response:
    """Return the response that lists lines of a batch."""
    if others := request.query_params.keys() - _BATCH_OPTIONS:
        raise malformed(f"{min(others)}: this option cannot be given together with batch")
    services = services_of(request)
    spec = await find_batch(request, batch_id, wanted.tenant)
    first = 1
    if cursor is not None:
        if (key := line_of(_parse_cursor(cursor))) is None or key.batch_id != batch_id:
            raise malformed(_BAD_CURSOR)
        first = key.number
    page = await services.batch_lines.list_page(spec, wanted, first, limit)
    jobs = [shown_job(request, *pair) for pair in page.jobs]
    following = None if page.following is None else line_id(batch_id, page.following)
    created_at = datetime.fromisoformat(spec.created_at)
    return answer_conditionally(request, _page_response(request, jobs, following, created_at))


def _page_response(
    request: Request, jobs: list[JobResource], below: str | None, searched_to: datetime
) -> Response:
    next_cursor = base64.urlsafe_b64encode(below.encode()).decode() if below else None
    given = {name: value for name, value in request.query_params.items() if name != "cursor"}
    following = next_cursor and f"/v1/jobs?{urlencode({**given, 'cursor': next_cursor})}"
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    page: JobListPage = {
        "jobs": jobs,
        "searched_back_to": format_time(searched_to),
        "next_cursor": next_cursor,
        "links": {"next": following},
    }
    return json_response(page, headers=headers)


def _parse_status(text: str | None) -> JobStatus | None:
    try:
        return None if text is None else JobStatus(text)
    except ValueError:
        known = ", ".join(JobStatus)
        raise malformed(f"status: expected one of {known}") from None


def _find_models(catalogue: Catalogue, name: str | None) -> frozenset[str] | None:
    try:
        return None if name is None else frozenset(each.name for each in catalogue.matching(name))
    except UnknownModel as error:
        raise malformed(f"model: {error}") from None


def _parse_code(text: str | None) -> str | None:
    # Workers of later versions may report further codes.
    if text is None or _CODE.fullmatch(text):
        return text
    known = ", ".join((*FailureCode, CANCELLED_CODE))
    raise malformed(f"code: expected the code of a failed job, for example {known}")


def parse_pair(text: str | None) -> str | None:
    """Return the `NAME=VALUE` in the query parameter `metadata`; None if it is absent."""
    if text is None or "=" in text:
        return text
    raise malformed("metadata: expected NAME=VALUE, for example user=7")


def parse_label_filter(text: str | None) -> str | None:
    """Return the text in the query parameter `label`; None if it is absent."""
    if text is None or 1 <= len(text) <= MAX_LABEL_CHARACTERS + len(ANY_ENDING):
        return text
    raise malformed(
        f"label: expected 1 to {MAX_LABEL_CHARACTERS} characters, optionally followed by "
        f"{ANY_ENDING}"
    )


def _parse_id(text: str | None) -> str | None:
    if text is None or JOB_ID.fullmatch(text) or _ID_PREFIX.fullmatch(text):
        return text
    raise malformed(
        "id: expected the id of a job, or its first characters (4 or more) followed by *"
    )


def _oldest_time(now: datetime, retention: timedelta) -> datetime:
    """Return since when jobs may exist, rounded so that a repeated request gets the same ETag."""
    return (now - retention - _PURGE_DELAY).replace(minute=0, second=0, microsecond=0)


def _id_range(cursor: str | None, oldest: datetime) -> IdRange:
    """Return the ids of the jobs since `oldest` that come after the cursor."""
    # The newest possible id: the time of a new id, plus the clock skew between app instances.
    newest_ms = int(uuid7().hex[:12], 16) + _SKEW_MS
    digits = f"{newest_ms:012x}"
    below = f"{digits[:8]}-{digits[8:]}"
    if cursor:
        below = min(below, _parse_cursor(cursor))
    return IdRange(below, id_at(oldest))


def _parse_cursor(cursor: str) -> str:
    try:
        below = base64.b64decode(cursor[:100], altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        below = ""
    if not _CURSOR.fullmatch(below):
        raise malformed(_BAD_CURSOR)
    return below
