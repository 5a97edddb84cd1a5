"""GET /v1/jobs: the caller's jobs, newest first, a page at a time."""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from uuid_utils import uuid7

from contract.errors import UnknownModel
from contract.status import JobStatus
from gateway import problems
from gateway.api.conditional import conditional
from gateway.api.context import (
    caller_of,
    durable_of,
    jobs_of,
    refuse_unknown_query,
    services_of,
)
from gateway.api.openapi.operations import IF_NONE_MATCH, JOBS_RESPONSES
from gateway.api.responses import json_response
from gateway.durable import Instance, RuntimeStatus
from gateway.jobs import record
from gateway.jobs.listing import Span, id_at, newest
from gateway.jobs.live import live
from gateway.jobs.record import Record
from gateway.jobs.resource import job_resource
from gateway.problems import Problem
from gateway.services import Services

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100

_OPTIONS: Final = ("cursor", "limit", "model", "status")
_BELOW: Final = re.compile(r"[0-9a-f]{4}[0-9a-f-]{0,32}g?")
_JOB_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Another instance of the app may be this far ahead with its clock; further costs empty looks.
_SKEW_MS: Final = 2_000
# Histories are purged by a timer, some time after their retention is over.
_PURGE_DELAY: Final = timedelta(hours=1)

# A page asks the blob storage about its jobs that have not ended.
_LOOKS_AT_ONCE: Final = 16

_UNDER_WAY: Final = frozenset(status for status in RuntimeStatus if not status.is_final)
_ENDED: Final = frozenset(status for status in RuntimeStatus if status.is_final)
_STORED_AS: Final[Mapping[JobStatus, frozenset[RuntimeStatus]]] = {
    JobStatus.QUEUED: _UNDER_WAY,
    JobStatus.RUNNING: _UNDER_WAY,
    JobStatus.CANCELLING: _UNDER_WAY,
    # Found once the orchestration has ended, in whatever way: the job's outcome is its own.
    **{status: _ENDED for status in JobStatus if status.is_final},
}

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs",
    summary="List the caller's jobs",
    responses=JOBS_RESPONSES,
    openapi_extra={"parameters": [IF_NONE_MATCH]},
    response_model=None,
)
async def list_jobs(
    request: Request,
    model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
    status: Annotated[str | None, Query(description="Only jobs in this status.")] = None,
    limit: Annotated[
        str | None, Query(description=f"Jobs a page: 1 to {MAX_LIMIT}, else {DEFAULT_LIMIT}.")
    ] = None,
    cursor: Annotated[
        str | None, Query(description="From `next_cursor` of the page before.")
    ] = None,
) -> Response:
    """Newest first. A page may be short or empty and still have a next one: go on until null."""
    refuse_unknown_query(request, _OPTIONS)
    services = services_of(request)
    wanted_status = _status(status)
    wanted_model = _model(services, model)
    tenant = caller_of(request).tenant

    def wanted(job_id: str, instance: Instance) -> tuple[str, Instance] | None:
        if not _JOB_ID.fullmatch(job_id):
            return None
        found = record.output_of(instance) or record.begun_by(instance)
        if found is None or record.tenant_of(found) != tenant:
            return None
        if wanted_model not in {None, found["model"]} or not _may_be(
            instance, found, wanted_status
        ):
            return None
        return job_id, instance

    page = await newest(
        durable_of(request),
        _span(services, cursor),
        _STORED_AS[wanted_status] if wanted_status else (),
        _limit(limit),
        wanted,
    )
    shown = await _shown(request, page.jobs)
    jobs = [
        job_resource(job_id, found)
        for job_id, found in shown
        if wanted_status in {None, found["status"]}
    ]
    return conditional(request, _page(request, jobs, page.below))


def _may_be(instance: Instance, found: Record, wanted: JobStatus | None) -> bool:
    """Return whether the job can be in the status, as far as its orchestration shows."""
    if wanted is None or found["status"] == wanted:
        return True
    if instance.runtime_status.is_final:
        # Without a final record its outcome decides, which is looked up for what is shown.
        return wanted.is_final and not record.is_final(found)
    return not wanted.is_final


async def _shown(request: Request, page: list[tuple[str, Instance]]) -> list[tuple[str, Record]]:
    """Return the records of the page's jobs as of now. Raises Unavailable."""
    jobs, services = jobs_of(request), services_of(request)
    slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def shown(job_id: str, instance: Instance) -> tuple[str, Record] | None:
        async with slots:
            found = await jobs.record_of(job_id, instance)
            return None if found is None else (job_id, await live(services, job_id, found))

    found = await asyncio.gather(*(shown(job_id, instance) for job_id, instance in page))
    return [pair for pair in found if pair is not None]


def _page(request: Request, jobs: list[dict[str, Any]], below: str | None) -> Response:
    next_cursor = base64.urlsafe_b64encode(below.encode()).decode() if below else None
    given = {name: value for name, value in request.query_params.items() if name != "cursor"}
    following = next_cursor and f"/v1/jobs?{urlencode({**given, 'cursor': next_cursor})}"
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    links = {"next": following}
    return json_response(
        {"jobs": jobs, "next_cursor": next_cursor, "links": links}, headers=headers
    )


def _status(text: str | None) -> JobStatus | None:
    try:
        return None if text is None else JobStatus(text)
    except ValueError:
        known = ", ".join(JobStatus)
        raise Problem(problems.MALFORMED_REQUEST, f"status: expected one of {known}") from None


def _model(services: Services, name: str | None) -> str | None:
    try:
        return None if name is None else services.catalogue.model(name).name
    except UnknownModel as error:
        raise Problem(problems.MALFORMED_REQUEST, f"model: {error}") from None


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    if not (is_number and 1 <= int(text) <= MAX_LIMIT):
        raise Problem(
            problems.MALFORMED_REQUEST, f"limit: expected a whole number from 1 to {MAX_LIMIT}"
        )
    return int(text)


def _span(services: Services, cursor: str | None) -> Span:
    """From where the page before ended, or from now, down to what may have been purged."""
    settings = services.settings
    longest = max(model.max_deadline_seconds for model in services.catalogue.values())
    kept = timedelta(hours=settings.retention_hours, seconds=longest) + _PURGE_DELAY
    # The ids' own clock, on top.
    newest_ms = int(uuid7().hex[:12], 16) + _SKEW_MS
    below = f"{newest_ms:012x}"
    below = f"{below[:8]}-{below[8:]}"
    return Span(min(below, _below(cursor)) if cursor else below, id_at(services.clock() - kept))


def _below(cursor: str) -> str:
    try:
        below = base64.b64decode(cursor[:100], altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        below = ""
    if not _BELOW.fullmatch(below):
        raise Problem(problems.MALFORMED_REQUEST, "cursor: is none that a page has given")
    return below
