"""The routes that workers call, with the reply tokens of the jobs."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NotRequired
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import ModelEntry, split_name
from contract.errors import ContractError
from contract.messages import (
    INLINE_LIMIT_BYTES,
    MAX_MESSAGE_BYTES,
    Fields,
    InlineBytes,
    InlineJson,
    JobError,
    JobReply,
    Payload,
    PayloadRef,
    reply_from_json,
)
from contract.named_tables import MAX_NAMED, MAX_RESULT_BYTES
from contract.names import (
    GATHERED_REPLIES_PATH,
    MAX_GATHERED_BYTES,
    MAX_GATHERED_REPLIES,
    REPLY_EXPIRES_PARAMETER,
    REPLY_QUEUE_PARAMETER,
    REPLY_SHARE_PARAMETER,
    REPLY_START_PARAMETER,
    REPLY_TOKEN_PARAMETER,
    is_result_blob,
)
from gateway import problems
from gateway.errors import (
    ExpiredToken,
    FinalInstance,
    InvalidToken,
    Unavailable,
    UnknownInstance,
)
from gateway.http.openapi.operations import (
    GATHERED_REPLIES_BODY,
    PREFER,
    PROGRESS_BODY,
    REPLY_BODY,
    SUBMIT_BODY,
    problem_responses,
    query_option,
)
from gateway.http.requests import (
    TextRoute,
    check_job_id,
    durable_of,
    noticing_hang_up,
    parse_prefer,
    read_limited,
    read_parts,
    services_of,
    unknown_job,
)
from gateway.http.responses import json_response
from gateway.jobs.children import MAX_DEPTH, child_id, read_ancestors
from gateway.jobs.lifecycle import is_line
from gateway.jobs.model import (
    JobFailure,
    JobOutcome,
    JobStatus,
    Record,
    is_final,
    read_ticket,
    tenant_of,
)
from gateway.jobs.progress import ProgressReport, report_from_json
from gateway.json_text import encode_json, parse_json
from gateway.problems import HttpProblem, invalid_input, malformed
from gateway.services import Services
from gateway.submission.parse import find_model, names_version, parse_submission

_log = logging.getLogger(__name__)

MAX_REPORT_BYTES: Final = 8 * 1024

_REPLY_TOO_LARGE: Final = (
    f"a reply can have at most {MAX_MESSAGE_BYTES} bytes; store a larger result in blob storage"
)
_REPORT_TOO_LARGE: Final = f"a report can have at most {MAX_REPORT_BYTES} bytes"

router = APIRouter(tags=["workers"], route_class=TextRoute)


class ReplyAccepted(TypedDict):
    """The response to an accepted reply or progress report."""

    status: Literal["accepted"]


class GatheredAnswer(TypedDict):
    """The answer to one of several replies: a status, and the code of a problem."""

    status: Annotated[int, Field(description="The status that the reply would get if sent alone.")]
    code: NotRequired[str]


class ReplyWanted(TypedDict):
    """The response that shows that a job still needs a reply."""

    status: Literal["wanted"]
    cancelled: NotRequired[
        Annotated[
            list[str],
            Field(description="With `batch`: the jobs of the batch that must not be run."),
        ]
    ]


class ChildJob(TypedDict):
    """A child job. Its payloads have the format of the payloads in a reply."""

    id: str
    status: JobStatus
    result: Annotated[Any, Field(description="The payload of the result; null before the end.")]
    results: Annotated[dict[str, Any], Field(description="The payloads of the named results.")]
    error: JobFailure | None


_ACCEPTED: Final[ReplyAccepted] = {"status": "accepted"}
_WANTED: Final[ReplyWanted] = {"status": "wanted"}


@router.post(
    "/v1/jobs/{job_id}/reply",
    summary="Send a worker's reply",
    status_code=202,
    response_model=ReplyAccepted,
    response_description="The reply was accepted",
    responses=problem_responses(401, 404, 410, 413, 422, 503),
    openapi_extra={"requestBody": REPLY_BODY},
)
async def reply(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    job_id: str,
    expires: str = "",
    token: str = "",
    queue: str = "",
    share: str = "",
) -> Response:
    """Record a worker's reply as the job's outcome; return 410 if the job already has an outcome.

    Before 202 is returned, the outcome is stored in a blob or in the input of the orchestration.
    Therefore the reply is not lost even if the event `reply` does not reach the orchestration.
    """
    _check_token(request, job_id, expires, token)
    body = await read_limited(request, MAX_MESSAGE_BYTES, _REPLY_TOO_LARGE)
    await _record_reply(request, job_id, body, queue, share, _starts_after(request.query_params))
    return json_response(_ACCEPTED, 202)


async def _record_reply(  # noqa: PLR0913, PLR0917 - what the reply URL says
    request: Request,
    job_id: str,
    body: bytes,
    queue: str,
    share: str,
    starts_after: datetime | None,
) -> None:
    """Record the reply in a body as the job's outcome. Raises HttpProblem if it is not accepted."""
    services = services_of(request)
    received = _parse_reply(job_id, body)
    outcome = JobOutcome.replied(received, services.clock())
    model_queue = services.catalogue.find_queue(queue)
    model_name = None if model_queue is None else model_queue[0].name
    try:
        recorded = await services.jobs.finish(
            durable_of(request), job_id, outcome, model_name, starts_after
        )
    except UnknownInstance:
        raise unknown_job(job_id) from None
    except FinalInstance:
        raise _already_final() from None
    if recorded is not outcome:
        raise _already_final()
    # Recorded here, because on Flex Consumption orchestrations run on other instances of the app.
    if model_queue is not None:
        model, priority = model_queue
        services.estimates.record_reply(model.name, priority, received)
        services.gate.record_reply(model, job_id, share, received)


@router.post(
    GATHERED_REPLIES_PATH,
    summary="Send the replies to several jobs",
    response_model=list[GatheredAnswer],
    response_description="An answer for each reply, in their order",
    responses=problem_responses(413, 422, 503),
    openapi_extra={"requestBody": GATHERED_REPLIES_BODY},
)
async def gathered_replies(request: Request) -> Response:
    """Record the replies of several jobs. Each is checked as if it were sent alone.

    The body has two lines for each reply: the job's id and the query of its reply URL, as
    `JOB_ID?QUERY`, and the reply as JSON. The reply to one job has no effect on those to others.
    """
    too_large = f"the replies can have at most {MAX_GATHERED_BYTES} bytes together"
    body = await read_limited(request, MAX_GATHERED_BYTES, too_large)
    lines = body.removesuffix(b"\n").split(b"\n")
    if len(lines) % 2 or len(lines) > 2 * MAX_GATHERED_REPLIES:
        raise invalid_input(
            f"the body has {len(lines)} lines; expected two for each reply, and at most "
            f"{MAX_GATHERED_REPLIES} replies"
        )
    pairs = zip(lines[::2], lines[1::2], strict=True)
    return json_response(await asyncio.gather(*(_answer_reply(request, *each) for each in pairs)))


async def _answer_reply(request: Request, address: bytes, body: bytes) -> GatheredAnswer:
    """Record one of several replies, and return the answer that it would get if sent alone."""
    job_id, _, text = address.decode("utf-8", "replace").partition("?")
    query = dict(parse_qsl(text))
    try:
        _check_token(
            request,
            job_id,
            query.get(REPLY_EXPIRES_PARAMETER, ""),
            query.get(REPLY_TOKEN_PARAMETER, ""),
        )
        await _record_reply(
            *(request, job_id, body),
            query.get(REPLY_QUEUE_PARAMETER, ""),
            query.get(REPLY_SHARE_PARAMETER, ""),
            _starts_after(query),
        )
    except HttpProblem as problem:
        kind, detail = problem.kind, problem.detail
    except Unavailable as error:
        kind, detail = problems.UNAVAILABLE, str(error)
    except Exception:  # noqa: BLE001  the other replies are answered
        _log.exception("recording the reply to job %.100r failed", job_id)
        return {"status": 500}
    else:
        return {"status": 202}
    _log.info("the reply to job %.100r was refused: %s: %.500r", job_id, kind.code, detail)
    return {"status": kind.status, "code": kind.code}


@router.get(
    "/v1/jobs/{job_id}/reply",
    summary="Check whether a reply is wanted",
    response_model=ReplyWanted,
    response_description="A reply is wanted",
    responses=problem_responses(401, 404, 410, 503),
)
async def wanted(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    job_id: str,
    batch: Annotated[
        str | None,
        query_option("`true`: whether any line of the job's batch needs a reply.", enum=["true"]),
    ] = None,
    expires: str = "",
    token: str = "",
    queue: str = "",
) -> Response:
    """Return 200 if the job still needs a reply; 410 if it has ended and must not be run.

    With `batch=true`, the answer is about all lines of the job's batch, so that a worker need not
    ask for each.
    """
    _check_token(request, job_id, expires, token)
    services = services_of(request)
    if is_line(job_id):
        return await _answer_line(services, job_id, queue, is_shared=batch == "true")
    found = await services.jobs.find(durable_of(request), job_id)
    if found is None:
        # The request that submitted the job may delay the start of the orchestration, or may have
        # ended before the start.
        is_wanted = services.starts.is_wanted(job_id)
        if is_wanted is None:
            is_wanted = await services.outcomes.find(job_id) is None
            starts_after = _starts_after(request.query_params)
            if is_wanted and (starts_after is None or services.clock() >= starts_after):
                raise unknown_job(job_id)
        if not is_wanted:
            raise _already_final()
        return json_response(_WANTED)
    if is_final(found):
        raise _already_final()
    # Only workers call this route, so the model has a worker.
    services.estimates.record_worker(found["model"])
    return json_response(_WANTED)


async def _answer_line(services: Services, job_id: str, queue: str, *, is_shared: bool) -> Response:
    """Answer whether a line of a batch, or with `is_shared` any line of it, needs a reply."""
    answer, lines = _WANTED, services.batch_lines
    if is_shared:
        if (cancelled := await lines.cancelled_lines(job_id)) is None:
            raise _already_final()
        answer = {**_WANTED, "cancelled": cancelled}
    elif not await lines.is_wanted(job_id):
        raise _already_final()
    if (model_queue := services.catalogue.find_queue(queue)) is not None:
        services.estimates.record_worker(model_queue[0].name)
    return json_response(answer)


@router.put(
    "/v1/jobs/{job_id}/progress",
    summary="Report a running job's progress",
    response_model=ReplyAccepted,
    response_description="The worker must continue the job",
    responses=problem_responses(401, 404, 410, 413, 422, 503),
    openapi_extra={"requestBody": PROGRESS_BODY},
)
async def put_progress(
    request: Request, job_id: str, expires: str = "", token: str = "", share: str = ""
) -> Response:
    """Record a progress report. Return 410 if the worker must stop working on the job.

    The status is 200 if the worker must continue, and 410 if the job was cancelled or has ended. A
    report that is older than an already received report is ignored. A report with `"stopped": true`
    says that the worker has stopped, and ends a job that is being cancelled.
    """
    _check_token(request, job_id, expires, token)
    report, has_stopped = _parse_report(
        await read_limited(request, MAX_REPORT_BYTES, _REPORT_TOO_LARGE)
    )
    services = services_of(request)
    found = await services.jobs.find(durable_of(request), job_id)
    if found is None:
        raise unknown_job(job_id)
    if has_stopped:
        await _record_stop(request, job_id, found["model"], share)
        return json_response(_ACCEPTED)
    is_ended = is_final(found)
    if not is_ended and is_line(job_id):
        is_ended = not await services.batch_lines.is_wanted(job_id)
    if is_ended:
        raise HttpProblem(problems.ALREADY_FINAL, "the job has ended; stop working on it")
    # Only workers send reports, so the model has a worker.
    services.estimates.record_worker(found["model"])
    progress = await services.progress.update(job_id, lambda before: before.with_report(report))
    if progress.cancelling:
        raise HttpProblem(
            problems.ALREADY_FINAL,
            "the job is being cancelled; stop working on it, then send a report with stopped: true",
        )
    return json_response(_ACCEPTED)


def _starts_after(query: Mapping[str, str]) -> datetime | None:
    """Return the time in a reply URL until which the start is delayed; None without such a time."""
    try:
        return datetime.fromtimestamp(float(query[REPLY_START_PARAMETER]), UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None


def _check_token(request: Request, job_id: str, expires: str, token: str) -> None:
    """Raise the problem `already-final` for an expired token, `unauthenticated` for a wrong one."""
    services = services_of(request)
    try:
        services.tokens.check(check_job_id(job_id), expires, token, services.clock())
    except InvalidToken as error:
        raise HttpProblem(
            problems.UNAUTHENTICATED,
            str(error),
            headers={"WWW-Authenticate": 'Bearer realm="replies", error="invalid_token"'},
        ) from None
    except ExpiredToken as error:
        raise HttpProblem(problems.ALREADY_FINAL, str(error)) from None


@router.post(
    "/v1/jobs/{job_id}/children",
    summary="Run a child job",
    response_model=ChildJob,
    response_description="The child job has ended",
    responses={
        202: {"model": ChildJob, "description": "The child job has not ended; repeat the request"},
        **problem_responses(400, 401, 404, 409, 410, 413, 415, 422, 503),
    },
    openapi_extra={"requestBody": SUBMIT_BODY, "parameters": [PREFER]},
)
async def run_child(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    job_id: str,
    model: Annotated[str, query_option("The model of the child job.")] = "",
    key: Annotated[
        str, query_option("Identifies the child job, so that the request can be repeated.")
    ] = "",
    parameters: Annotated[
        str | None, query_option("The model's parameters as a JSON object.")
    ] = None,
    expires: str = "",
    token: str = "",
) -> Response:
    """Submit a job for the model of a running job, and wait for its end.

    The child job belongs to the tenant of its parent, and has the parent's deadline. A request with
    the same key finds the same child job, also if the parent runs again. Such a request needs no
    body.
    """
    _check_token(request, job_id, expires, token)
    if not key:
        raise malformed("key: this query parameter is missing")
    services, durable = services_of(request), durable_of(request)
    entry = find_model(services.catalogue, model)
    instance = await services.jobs.snapshot(durable, job_id)
    found = await services.jobs.record_of(job_id, instance) if instance else None
    if instance is None or found is None:
        raise unknown_job(job_id)
    if is_final(found):
        raise _already_final()
    await _check_ancestors(request, job_id, found, entry)
    left = datetime.fromisoformat(found["deadline"]) - services.clock()
    left_seconds = min(entry.max_deadline_seconds, int(left.total_seconds()))
    if left_seconds < 1:
        raise HttpProblem(problems.ALREADY_FINAL, "the deadline of the parent job has passed")
    options = {"deadline_seconds": str(left_seconds), "parameters": parameters}
    try:
        name = child_id(job_id, key)
    except ValueError:
        raise unknown_job(job_id) from None
    wait_seconds = parse_prefer(request.headers.getlist("prefer")).wait_or(0)
    tenant = tenant_of(found)
    child = await services.children.find(durable, name)
    # The body is counted and parsed as a body of the parent's tenant.
    with services.bodies.counting(tenant) as held, noticing_hang_up(request):
        if child is not None:
            child = await services.creator.wait(durable, child, wait_seconds)
        else:
            parts = read_parts(request, options, held, is_pinned=names_version(model))
            parts = replace(
                parts,
                tenant=tenant,
                traceparent=read_ticket(instance.input).traceparent or parts.traceparent,
                parent=job_id,
            )
            new_job = await parse_submission(parts, entry, services.bodies)
            child = await services.children.create(durable, name, new_job, wait_seconds)
    record = child.record
    shown: ChildJob = {
        "id": child.job_id,
        "status": JobStatus(record["status"]),
        "result": record["result"],
        "results": record.get("results", {}),
        "error": record["error"],
    }
    return json_response(shown, 200 if is_final(record) else 202)


async def _check_ancestors(
    request: Request, job_id: str, record: Record, entry: ModelEntry
) -> None:
    """Refuse a child of a model that waits for this job, which would wait for ever."""
    ancestors = await read_ancestors(durable_of(request), services_of(request).jobs, job_id, record)
    chain = " -> ".join([*reversed(ancestors), entry.name])
    if entry.model_name in {split_name(name)[0] for name in ancestors}:
        raise invalid_input(f"a child job of the model {entry.name} would wait for itself: {chain}")
    if len(ancestors) > MAX_DEPTH:
        raise invalid_input(f"a job may have at most {MAX_DEPTH} ancestors: {chain}")


@router.delete(
    "/v1/jobs/{job_id}/children",
    summary="Cancel the child jobs",
    response_model=ReplyAccepted,
    response_description="The child jobs are cancelled",
    responses=problem_responses(401, 404, 410, 503),
)
async def cancel_children(
    request: Request, job_id: str, expires: str = "", token: str = ""
) -> Response:
    """Cancel all child jobs of a job that have not ended."""
    _check_token(request, job_id, expires, token)
    await services_of(request).cancellation.cancel_children(durable_of(request), job_id)
    return json_response(_ACCEPTED)


def _parse_reply(job_id: str, body: bytes) -> JobReply:
    """Return the reply in a body, after checking that it can be stored and shown."""
    if len(body) > MAX_MESSAGE_BYTES:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE, _REPLY_TOO_LARGE, limit_bytes=MAX_MESSAGE_BYTES
        )
    try:
        value = parse_json(body)
        received = reply_from_json(value)
        encoded = encode_json(value)
    except (ContractError, ValueError) as error:
        raise invalid_input(f"the body is not a reply: {error}") from None
    if received.job_id != job_id:
        raise invalid_input("job_id: expected the same job id as in the URL")
    if isinstance(received.outcome, JobError):
        return received
    _check_result(job_id, "result", received.outcome)
    for name, payload in received.results.items():
        _check_result(job_id, f"results.{name}", payload)
    # A short reply with one result cannot exceed the limits on all results together.
    if received.results or len(encoded) > INLINE_LIMIT_BYTES:
        _check_results_together([received.outcome, *received.results.values()])
    return received


def _check_result(job_id: str, path: str, payload: Payload) -> None:
    """Check that the result at `path` belongs to this job and can be shown to its caller."""
    if isinstance(payload, InlineBytes | PayloadRef):
        # The media type becomes a header of the response that contains the result.
        media_type = payload.media_type
        if not (media_type.isascii() and media_type.isprintable()):
            raise invalid_input(f"{path}.media_type: expected printable ASCII")
    if not isinstance(payload, PayloadRef):
        return
    # Otherwise a worker could show a caller the data of another caller.
    if not is_result_blob(job_id, payload.blob):
        raise invalid_input(
            f"{path}.blob: expected the name results/{job_id}/ followed by 32 hexadecimal digits, "
            f"found {payload.blob!r:.200}"
        )
    if payload.size_bytes > MAX_RESULT_BYTES:
        raise invalid_input(f"{path}.size_bytes: expected at most {MAX_RESULT_BYTES}")


def _check_results_together(results: Sequence[Payload]) -> None:
    """Check the number of named results, which follow the first, and the size of all results."""
    if len(results) - 1 > MAX_NAMED:
        raise invalid_input(
            f"results: found {len(results) - 1} named results; expected at most {MAX_NAMED}"
        )
    stored_bytes = inline_bytes = 0
    for payload in results:
        match payload:
            case InlineJson(value):
                inline_bytes += len(encode_json(value))
            case InlineBytes(_, data):
                inline_bytes += len(data)
            case PayloadRef():
                stored_bytes += payload.size_bytes
    if inline_bytes > INLINE_LIMIT_BYTES:
        raise invalid_input(
            f"the results in the reply have {inline_bytes} bytes in total; expected at most "
            f"{INLINE_LIMIT_BYTES}; store some of them in blob storage"
        )
    if stored_bytes + inline_bytes > MAX_RESULT_BYTES:
        raise invalid_input(
            f"all results have {stored_bytes + inline_bytes} bytes in total; expected at most "
            f"{MAX_RESULT_BYTES}"
        )


def _parse_report(body: bytes) -> tuple[ProgressReport, bool]:
    """Return the progress report in a body, and whether the worker has stopped the job."""
    try:
        value = parse_json(body)
        has_stopped = Fields(value).has("stopped") and Fields(value).boolean("stopped")
        return report_from_json(value), has_stopped
    except (ContractError, ValueError) as error:
        raise invalid_input(f"the body is not a progress report: {error}") from None


async def _record_stop(request: Request, job_id: str, model: str, owner: str) -> None:
    """End a job as cancelled if its worker was ordered to stop it."""
    services = services_of(request)
    progress = await services.progress.read(job_id)
    if not progress.cancelling or progress.report is None:
        return
    stopped = JobOutcome.cancelled(services.clock(), progress.report.started_at)
    # If the orchestration has ended, the job has also ended.
    with contextlib.suppress(UnknownInstance, FinalInstance):
        await services.jobs.finish(durable_of(request), job_id, stopped, model)
        services.gate.record_end(model, job_id, owner)


def _already_final() -> HttpProblem:
    return HttpProblem(problems.ALREADY_FINAL, "the job has ended; a reply is no longer needed")
