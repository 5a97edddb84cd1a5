"""Run the calls of the OpenAI API as jobs.

A call names a model of the catalogue, whose entry lists in `openai` the operations that it offers.
The call waits for the end of its job. If the client hangs up, the job is cancelled; if it takes too
long, the error names the job, which goes on. The header `x-loosely-job` of each response has the
job's id.
"""

import contextlib
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from gateway import problems
from gateway.bodies import HeldBytes
from gateway.errors import UnknownInstance
from gateway.http.openai import forms
from gateway.http.requests import (
    body_of,
    caller_of,
    durable_of,
    idempotency_key_of,
    label_option_of,
    noticing_hang_up,
    refuse_unknown_query,
    services_of,
)
from gateway.http.responses import json_response
from gateway.jobs.model import Record, is_final
from gateway.json_text import parse_json
from gateway.openai.calls import (
    ApiOperation,
    CallResult,
    Members,
    Shown,
    kept,
    read_call,
    read_result,
)
from gateway.problems import HttpProblem, malformed
from gateway.settings import MAX_WAIT_SECONDS
from gateway.submission.create import SubmittedJob
from gateway.submission.parse import NewJob, check_coding, parse_label
from gateway.telemetry import traceparent_of


async def read_job(
    request: Request, operation: ApiOperation, held: HeldBytes
) -> tuple[Members, NewJob]:
    """Return the members of a call that are needed later, and its job."""
    refuse_unknown_query(request)
    body: bytes | None = None
    if operation.files:
        members = (await forms.read_body(request, held)).take_members(operation.files)
    else:
        members, body = await read_object(request, held)
    job = read_call(
        services_of(request).catalogue,
        operation,
        members,
        tenant=caller_of(request).tenant,
        traceparent=traceparent_of(request.scope),
        body=body,
    )
    label = parse_label({"label": label_option_of(request)})
    return kept(members), replace(job, label=label, held=held)


async def read_object(request: Request, held: HeldBytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON object in the body of a request, and the body itself."""
    services = services_of(request)
    check_coding(request.headers.get("content-encoding", ""))
    limit_bytes = max(model.max_input_bytes for model in services.catalogue.values())

    def check(size_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise HttpProblem(
                problems.PAYLOAD_TOO_LARGE,
                f"the body has more than {limit_bytes} bytes, the most that any model here accepts",
            )

    incoming = body_of(request, held)
    incoming.limit(check)
    body = await incoming.read()
    try:
        found = await services.bodies.parse(caller_of(request).tenant, body, parse_json)
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise malformed("the body must be a JSON object")
    return found, body


async def submit(request: Request, job: NewJob, wait_seconds: int) -> SubmittedJob:
    """Submit a job, and wait up to `wait_seconds` for its end. The body must have been read.

    If the client hangs up, the job is cancelled. A client that sent an Idempotency-Key may repeat
    the request, so its job goes on.
    """
    services, durable, key = services_of(request), durable_of(request), idempotency_key_of(request)
    submitted: SubmittedJob | None = None
    try:
        with noticing_hang_up(request):
            if key is None:
                (submitted,) = await services.creator.create(durable, [job], wait_seconds)
            else:
                submitted = await services.idempotency.create(durable, key, job, wait_seconds)
    except ClientDisconnect:
        if submitted is not None and key is None:
            await cancel(request, submitted.job_id, submitted.record)
        raise
    return submitted


async def cancel(request: Request, job_id: str, record: Record) -> None:
    """Cancel a job unless it has ended."""
    if not is_final(record):
        with contextlib.suppress(UnknownInstance):
            await services_of(request).cancellation.cancel(durable_of(request), job_id, record)


async def run(request: Request, job: NewJob) -> CallResult:
    """Run a job, and return its result. Raises HttpProblem if it fails or takes too long."""
    submitted = await submit(request, job, MAX_WAIT_SECONDS)
    return await result_of(request, submitted.job_id, submitted.record)


async def result_of(request: Request, job_id: str, record: Record) -> CallResult:
    """Return the result of a job. Raises HttpProblem, which names the job, if it has none."""
    return await read_result(services_of(request).payloads, job_id, record)


def respond(shown: Shown, result: CallResult) -> Response:
    """Return the response of a call: a JSON object, a text, or the result as it is."""
    if isinstance(shown, CallResult):
        headers = {**shown.headers, "X-Content-Type-Options": "nosniff"}
        return Response(shown.data, media_type=shown.media_type, headers=headers)
    if isinstance(shown, str):
        return Response(shown, media_type="text/plain; charset=utf-8", headers=result.headers)
    return json_response(shown, headers=result.headers)
