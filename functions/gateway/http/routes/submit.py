"""The route POST /v1/models/{model}/jobs, which submits a job and waits for its end."""

from contextlib import ExitStack
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response

from gateway.http.event_stream import EventStreamResponse, JobEvents, encode_sse
from gateway.http.openapi.operations import (
    EVENTS,
    IDEMPOTENCY_KEY,
    LABEL,
    LABEL_IN_HEADER,
    PREFER,
    PRIORITY,
    STREAM,
    SUBMIT_BODY,
    UPLOAD,
    job_problem_responses,
    query_option,
)
from gateway.http.requests import (
    Preference,
    TextRoute,
    caller_of,
    durable_of,
    idempotency_key_of,
    label_option_of,
    noticing_hang_up,
    parse_prefer,
    read_parts,
    refuse_unknown_query,
    services_of,
    wants_events,
)
from gateway.http.responses import add_queue_position, json_response, problem_response
from gateway.jobs.model import (
    JobResource,
    Record,
    add_text_result,
    is_final,
    job_path,
    job_resource,
    problem_of_job,
)
from gateway.submission.create import SubmittedJob
from gateway.submission.parse import find_model, names_version, parse_submission

REPLAYED: Final = {"Idempotency-Replayed": "true"}
"""The header of a response about a job that an earlier request created."""

router = APIRouter(tags=["jobs"], route_class=TextRoute)


@router.post(
    "/v1/models/{model}/jobs",
    summary="Submit a job",
    response_model=JobResource,
    response_description="The job has ended with a result",
    responses={
        200: {"content": EVENTS},
        202: {
            "model": JobResource,
            "description": "The job was accepted; `Location` contains its URL",
        },
        **job_problem_responses(400, 404, 409, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={
        "requestBody": SUBMIT_BODY,
        "parameters": [PREFER, IDEMPOTENCY_KEY, PRIORITY, LABEL, LABEL_IN_HEADER, STREAM, UPLOAD],
    },
)
async def submit(
    request: Request,
    model: str,
    deadline_seconds: Annotated[
        str | None, query_option("How many seconds after its submission the job expires.")
    ] = None,
    parameters: Annotated[
        str | None, query_option("The model's parameters as a JSON object.")
    ] = None,
    webhook_url: Annotated[
        str | None, query_option("The URL to which the job is posted when it has ended.")
    ] = None,
) -> Response:
    """Submit a job. Return the job if it ends within the time of `Prefer: wait`; otherwise 202.

    With `Accept: text/event-stream`, the response is a stream: the event `job` with the job, and
    then the events of `GET /v1/jobs/{id}/events`.
    """
    services, durable = services_of(request), durable_of(request)
    options = {
        "deadline_seconds": deadline_seconds,
        "label": label_option_of(request),
        "parameters": parameters,
        "priority": request.query_params.get("priority"),
        "stream": request.query_params.get("stream"),
        "upload": request.query_params.get("upload"),
        "webhook_url": webhook_url,
    }
    found = find_model(services.catalogue, model)
    refuse_unknown_query(request, options)
    key = idempotency_key_of(request)
    preference = parse_prefer(request.headers.getlist("prefer"))
    follows = wants_events(request)
    wait_seconds = 0 if follows else preference.wait_or(services.settings.default_wait_seconds)
    is_pinned = names_version(model)
    tenant = caller_of(request).tenant
    with ExitStack() as slot:
        if follows:
            slot.enter_context(services.streams.opening(tenant))
        with services.bodies.counting(tenant) as held, noticing_hang_up(request):
            # No variable refers to the parts, because their body would need memory during the wait.
            new_job = await parse_submission(
                read_parts(
                    request,
                    options,
                    held,
                    is_pinned=is_pinned,
                    wants_stream=follows or preference.stream,
                ),
                found,
                services.bodies,
            )
            if key is None:
                (submitted,) = await services.creator.create(durable, [new_job], wait_seconds)
            else:
                submitted = await services.idempotency.create(durable, key, new_job, wait_seconds)
        # Build the response.
        job_id, record = submitted.job_id, submitted.record
        if found.reports_progress:
            record = await services.progress.add_to_if_available(job_id, record)
        record = await add_text_result(services.payloads, record)
        if follows:
            response = await _stream(request, submitted, record, slot.pop_all())
        else:
            response = await _answer(request, job_id, record, preference)
    if submitted.is_replay:
        response.headers.update(REPLAYED)
    return response


async def _answer(
    request: Request, job_id: str, record: Record, preference: Preference
) -> Response:
    job, has_ended = job_resource(job_id, record), is_final(record)
    headers = {"Vary": "Prefer"}
    streams = record.get("stream", False)
    if applied := preference.applied(answered_async=not has_ended, streams=streams):
        headers["Preference-Applied"] = applied
    if not has_ended:
        services = services_of(request)
        headers |= await add_queue_position(
            job, record, services.catalogue, services.estimates, services.gate
        )
        headers["Location"] = job_path(job["id"])
        return json_response(job, 202, headers)
    headers["Content-Location"] = job_path(job["id"])
    problem = problem_of_job(job, has_run=record.get("ran"))
    if problem is None:
        return json_response(job, 200, headers)
    problem.headers |= headers
    return problem_response(request, problem)


async def _stream(
    request: Request, submitted: SubmittedJob, shown: Record, slot: ExitStack
) -> Response:
    """Return the stream that begins with the job, whose place `slot` is freed at its end."""
    services, job_id = services_of(request), submitted.job_id
    job = job_resource(job_id, shown)
    if not is_final(shown):
        await add_queue_position(job, shown, services.catalogue, services.estimates, services.gate)
    events = JobEvents(request, job_id, submitted.record, show=job_resource)
    headers = {"Vary": "Accept, Prefer", "Content-Location": job_path(job_id)}
    return EventStreamResponse(events.pieces(encode_sse("job", job)), slot, events.resume, headers)
