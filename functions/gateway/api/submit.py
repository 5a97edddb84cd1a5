"""POST /v1/models/{model}/jobs: accept a job, and wait for it as long as the caller likes."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from uuid_utils import uuid7

from contract.catalogue import Model
from contract.claimcheck import fits_inline
from contract.messages import InlineBytes, InlineJson, JobRequest, Payload
from contract.names import input_blob, job_path
from gateway import media, record, ticket
from gateway.api.context import durable_of, refuse_unknown_query, services_of, traceparent_of
from gateway.api.intake import Intake, read_intake
from gateway.api.models import found_model
from gateway.api.openapi import PREFER, SUBMIT_BODY, SUBMIT_RESPONSES
from gateway.api.responses import json_response, problem_response
from gateway.prefer import Preference, parse
from gateway.resource import failure, job_resource
from gateway.services import Services
from gateway.strict_json import parse as parse_json
from gateway.ticket import Ticket
from gateway.waiting import final_instance

RETRY_AFTER_SECONDS = 1

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/models/{model}/jobs",
    summary="Submit a job",
    responses=SUBMIT_RESPONSES,
    openapi_extra={"requestBody": SUBMIT_BODY, "parameters": [PREFER]},
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
) -> Response:
    """Answers with the ended job where that is ready within the wait, else 202 with the job."""
    services = services_of(request)
    found = found_model(services, model)
    refuse_unknown_query(request, ("deadline_seconds", "parameters"))
    options = {"deadline_seconds": deadline_seconds, "parameters": parameters}
    given = {name: value for name, value in options.items() if value is not None}
    intake = await read_intake(request, found, given)
    issued = await _ticket(services, found, intake, traceparent_of(request))

    preference = parse(request.headers.getlist("prefer"))
    wait_seconds = preference.wait_or(services.settings.default_wait_seconds)
    durable = durable_of(request)
    with services.waiters.listening(issued.job_id) as bell:
        await durable.start(issued.job_id, issued.text)
        # From here on there is a job, and whatever happens, the answer says so.
        ended = await final_instance(durable, issued.job_id, bell, wait_seconds)
    final = record.of_instance(ended) if ended else None
    job = job_resource(issued.job_id, final or record.begun(issued))
    return _answer(request, job, preference, is_final=final is not None)


async def _ticket(services: Services, model: Model, intake: Intake, trace: str) -> Ticket:
    """Store what is large, and write down the job. Dying here leaves a blob that nobody names."""
    job_id = str(uuid7())
    created_at = services.clock()
    request = JobRequest(
        job_id=job_id,
        model=model.name,
        input=await _payload(services, job_id, intake),
        created_at=created_at,
        deadline=created_at + timedelta(seconds=intake.deadline_seconds),
        parameters=intake.parameters,
    )
    return ticket.write(request, trace)


async def _payload(services: Services, job_id: str, intake: Intake) -> Payload:
    if not fits_inline(len(intake.data), services.settings.inline_limit_bytes):
        return await services.payloads.put(input_blob(job_id), intake.data, intake.media_type)
    if intake.media_type == media.JSON:
        return InlineJson(parse_json(intake.data))
    return InlineBytes(intake.media_type, intake.data)


def _answer(
    request: Request, job: dict[str, Any], preference: Preference, *, is_final: bool
) -> Response:
    headers = {"Vary": "Prefer"}
    if applied := preference.applied(answered_async=not is_final):
        headers["Preference-Applied"] = applied
    if not is_final:
        headers |= {"Location": job_path(job["id"]), "Retry-After": str(RETRY_AFTER_SECONDS)}
        return json_response(job, 202, headers)
    headers["Content-Location"] = job_path(job["id"])
    problem = failure(job)
    if problem is None:
        return json_response(job, 200, headers)
    problem.headers |= headers
    return problem_response(request, problem)
