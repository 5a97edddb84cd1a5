"""Run the calls of the OpenAI API as jobs.

A call names a model of the catalogue, whose entry lists in `openai` the operations that it offers.
The call waits for the end of its job. If the client hangs up, the job is cancelled; if it takes too
long, the error names the job, which goes on. The header `x-loosely-job` of each response has the
job's id.
"""

import contextlib
import json
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from contract import media
from contract.catalogue import ModelEntry
from contract.messages import Fields, InlineBytes, InlineJson, Json, PayloadRef, payload_from_json
from gateway import problems
from gateway.bodies import HeldBytes
from gateway.errors import MissingPayload, UnknownInstance
from gateway.http.requests import (
    body_of,
    caller_of,
    durable_of,
    find_model,
    idempotency_key_of,
    label_option_of,
    names_version,
    noticing_hang_up,
    services_of,
)
from gateway.http.responses import problem_of_job
from gateway.jobs.model import Record, is_final, job_path, job_resource
from gateway.json_text import encode_json, parse_json
from gateway.problems import HttpProblem, malformed
from gateway.settings import MAX_WAIT_SECONDS
from gateway.submission.create import SubmittedJob
from gateway.submission.parse import (
    NewJob,
    SubmittedInput,
    check_accepted,
    check_coding,
    check_required_inputs,
    check_size,
    has_surrogate,
    parse_label,
    parse_options,
)
from gateway.telemetry import traceparent_of

JOB_HEADER: Final = "x-loosely-job"

_MAX_PAIRS: Final = 16
_MAX_NAME: Final = 64
_MAX_VALUE: Final = 512


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for: an operation of a model, by the model's name in the request."""

    operation: str
    name: str
    model: ModelEntry


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a call's job, as bytes of this media type."""

    job_id: str
    record: Record
    media_type: str
    data: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {JOB_HEADER: self.job_id}

    def response(self) -> Response:
        """Return a response with the result, unchanged."""
        headers = {**self.headers, "X-Content-Type-Options": "nosniff"}
        return Response(self.data, media_type=self.media_type, headers=headers)

    def json(self) -> Any:
        """Return the result as a JSON value; text as a string, and None for anything else."""
        if self.media_type == media.JSON:
            return json.loads(self.data)
        return self.data.decode("utf-8", "replace") if self.is_a("text") else None

    def is_a(self, kind: str) -> bool:
        """Return whether the media type is of this kind, such as `image`."""
        return self.media_type.startswith(f"{kind}/")


def refused(param: str, detail: str) -> HttpProblem:
    """Return the problem `malformed-request` that names a member of the request."""
    return HttpProblem(problems.MALFORMED_REQUEST, f"{param}: {detail}", param=param)


def find_call(request: Request, operation: str, name: object) -> Call:
    """Return the call of a request. Raises HttpProblem if the model lacks the operation."""
    if not isinstance(name, str):
        raise refused("model", "expected the name of a model")
    try:
        model = find_model(services_of(request).catalogue, name)
    except HttpProblem as problem:
        problem.extra["param"] = "model"
        raise
    if operation not in model.openai:
        offered = ", ".join(model.openai) or "no operation of the OpenAI API"
        raise refused("model", f"{name} does not offer {operation}; it offers {offered}")
    return Call(operation, name, model)


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


def json_job(
    request: Request, call: Call, body: bytes, held: HeldBytes, metadata: Json = None
) -> NewJob:
    """Return the job of a call whose input is the JSON body of the request, unchanged."""
    check_accepted(call.model, media.JSON)
    check_size(call.model, len(body))
    inputs: dict[str | None, SubmittedInput] = {None: SubmittedInput(media.JSON, body)}
    return new_job(request, call, inputs, {}, held, metadata)


def new_job(  # noqa: PLR0913, PLR0917 - the parts of a job
    request: Request,
    call: Call,
    inputs: dict[str | None, SubmittedInput],
    parameters: dict[str, Json],
    held: HeldBytes,
    metadata: Json = None,
) -> NewJob:
    """Return the job of a call, whose inputs were checked."""
    check_required_inputs(call.model, inputs)
    label = label_option_of(request)
    checked, deadline_seconds = parse_options(call.model, {"parameters": parameters})
    return NewJob(
        call.model,
        caller_of(request).tenant,
        traceparent_of(request.scope),
        inputs,
        checked,
        deadline_seconds,
        label=parse_label({"label": label}),
        is_pinned=names_version(call.name),
        held=held,
        operation=call.operation,
        metadata=_parse_metadata(metadata),
    )


def _parse_metadata(given: Json) -> dict[str, str] | None:
    """Check metadata, whose limits are those of OpenAI."""
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > _MAX_PAIRS:
        raise refused("metadata", f"expected a JSON object with at most {_MAX_PAIRS} members")
    for name, value in given.items():
        is_text = isinstance(value, str) and not has_surrogate(name + value)
        if not is_text or len(name) > _MAX_NAME or len(value) > _MAX_VALUE:
            raise refused(
                "metadata",
                f"expected names of at most {_MAX_NAME} characters, and texts of at most "
                f"{_MAX_VALUE} characters as values",
            )
    return given


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
    try:
        return await _read_result(request, job_id, record)
    except HttpProblem as problem:
        problem.headers[JOB_HEADER] = job_id
        raise


async def _read_result(request: Request, job_id: str, record: Record) -> CallResult:
    if not is_final(record):
        raise HttpProblem(
            problems.EXPIRED,
            f"job {job_id} has not ended after {MAX_WAIT_SECONDS} s, and goes on: its status is at "
            f"{job_path(job_id)}; for a job that takes long, use the Responses API with background",
            retryable=False,  # a repeated request would be another job
        )
    if problem := problem_of_job(job_resource(job_id, record), has_run=record.get("ran")):
        problem.detail = f"{problem.detail} (job {job_id})"
        raise problem
    payload = payload_from_json(Fields(record["result"]))
    match payload:
        case InlineJson(value):
            data = encode_json(value)
        case InlineBytes(_, data):
            pass
        case PayloadRef():
            try:
                data = await services_of(request).payloads.get(payload)
            except MissingPayload:
                raise HttpProblem(
                    problems.UNKNOWN_JOB, "the result was deleted after its retention"
                ) from None
    return CallResult(job_id, record, media.essence(payload.media_type), data)
