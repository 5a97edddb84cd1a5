"""POST /v1/models/{model}/jobs: accept a job, and wait for it as long as the caller likes."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from contract.names import job_path
from gateway.api.context import refuse_unknown_query, services_of
from gateway.api.openapi.operations import (
    IDEMPOTENCY_KEY,
    PREFER,
    PRIORITY,
    SUBMIT_BODY,
    SUBMIT_RESPONSES,
    UPLOAD,
)
from gateway.api.prefer import Preference, parse
from gateway.api.queueing import placed
from gateway.api.responses import json_response, problem_response
from gateway.api.routes.models import found_model
from gateway.api.submitting.intake import read_intake
from gateway.api.submitting.once import REPLAYED, accept, key_of
from gateway.jobs import record
from gateway.jobs.live import live_at_best
from gateway.jobs.record import Record
from gateway.jobs.resource import failure, job_resource

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/models/{model}/jobs",
    summary="Submit a job",
    responses=SUBMIT_RESPONSES,
    openapi_extra={
        "requestBody": SUBMIT_BODY,
        "parameters": [PREFER, IDEMPOTENCY_KEY, PRIORITY, UPLOAD],
    },
    response_model=None,
)
async def submit(
    request: Request,
    model: str,
    deadline_seconds: Annotated[
        str | None, Query(description="Seconds after which nobody wants the result.")
    ] = None,
    parameters: Annotated[
        str | None, Query(description="The model's parameters as a JSON object.")
    ] = None,
    webhook_url: Annotated[
        str | None, Query(description="Where the job is posted once it has ended.")
    ] = None,
) -> Response:
    """Answers with the ended job where that is ready within the wait, else 202 with the job."""
    services = services_of(request)
    found = found_model(services, model)
    options = {
        "deadline_seconds": deadline_seconds,
        "parameters": parameters,
        "priority": request.query_params.get("priority"),
        "upload": request.query_params.get("upload"),
        "webhook_url": webhook_url,
    }
    refuse_unknown_query(request, options)
    given = {name: value for name, value in options.items() if value is not None}
    key = key_of(request)
    intake = await read_intake(request, found, given)

    preference = parse(request.headers.getlist("prefer"))
    wait_seconds = preference.wait_or(services.settings.default_wait_seconds)
    answered = await accept(request, found, intake, key, wait_seconds)
    known = await live_at_best(services, answered.job_id, answered.record)
    response = await _answer(request, answered.job_id, known, preference)
    if answered.is_replay:
        response.headers.update(REPLAYED)
    return response


async def _answer(request: Request, job_id: str, known: Record, preference: Preference) -> Response:
    job, is_final = job_resource(job_id, known), record.is_final(known)
    headers = {"Vary": "Prefer"}
    if applied := preference.applied(answered_async=not is_final):
        headers["Preference-Applied"] = applied
    if not is_final:
        headers |= await placed(services_of(request), job, record.priority_of(known))
        headers["Location"] = job_path(job["id"])
        return json_response(job, 202, headers)
    headers["Content-Location"] = job_path(job["id"])
    problem = failure(job, ran=known.get("ran"))
    if problem is None:
        return json_response(job, 200, headers)
    problem.headers |= headers
    return problem_response(request, problem)
