"""/v1/jobs/{id}/reply: where workers bring replies, and ask whether one is still wanted."""

from fastapi import APIRouter, Request, Response

from contract.codec import MAX_MESSAGE_BYTES, reply_from_json
from contract.errors import ContractError
from contract.messages import InlineBytes, JobReply, PayloadRef
from contract.names import result_blob
from gateway import problems
from gateway.api.context import jobs_of, known_job_id, services_of, unknown_job
from gateway.api.openapi.operations import REPLY_BODY, REPLY_RESPONSES, WANTED_RESPONSES
from gateway.api.responses import json_response
from gateway.errors import ExpiredToken, FinalInstance, InvalidToken, UnknownInstance
from gateway.jobs import record
from gateway.jobs.outcome import Outcome
from gateway.problems import Problem
from gateway.queueing.priority import whose
from gateway.strict_json import encode, parse

MAX_RESULT_BYTES = 256 * 1024 * 1024

router = APIRouter(tags=["workers"])


@router.post(
    "/v1/jobs/{job_id}/reply",
    summary="Bring a worker's reply",
    status_code=202,
    responses=REPLY_RESPONSES,
    openapi_extra={"requestBody": REPLY_BODY},
    response_model=None,
)
async def reply(
    request: Request, job_id: str, expires: str = "", token: str = "", queue: str = ""
) -> Response:
    """Record the reply as the job's outcome; 410 if the job has one already.

    The reply is safe once the worker has its 202: the outcome is in the blob storage by then,
    whether the orchestration hears of it or not.
    """
    check_token(request, job_id, expires, token)
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        _check_size(int(announced[:15]))
    body = await request.body()
    _check_size(len(body))
    found = _checked(job_id, body)
    services = services_of(request)
    outcome = Outcome.replied(found, services.clock())
    try:
        recorded = await jobs_of(request).finish(job_id, outcome)
    except UnknownInstance:
        raise unknown_job(job_id) from None
    except FinalInstance:
        raise _final() from None
    if recorded is not outcome:
        raise _final()
    # Not at the orchestration's end: on Flex Consumption that is on other instances than requests.
    if (pair := whose(services.catalogue, queue)) is not None:
        model, priority = pair
        services.backlog.replied(model.name, priority, found)
    return json_response({"status": "accepted"}, 202)


@router.get(
    "/v1/jobs/{job_id}/reply",
    summary="Ask whether a reply is wanted",
    responses=WANTED_RESPONSES,
    response_model=None,
)
async def wanted(request: Request, job_id: str, expires: str = "", token: str = "") -> Response:
    """200 while a reply is wanted; 410 once the job is final, so that no GPU works for nobody."""
    check_token(request, job_id, expires, token)
    found = await jobs_of(request).find(job_id)
    if found is None:
        raise unknown_job(job_id)
    if record.is_final(found):
        raise _final()
    # Only a worker asks, so there is one.
    services_of(request).backlog.heard(found["model"])
    return json_response({"status": "wanted"})


def check_token(request: Request, job_id: str, expires: str, token: str) -> None:
    """Refuse who has not the token of this job, or has it too late."""
    services = services_of(request)
    try:
        services.tokens.check(known_job_id(job_id), expires, token, services.clock())
    except InvalidToken as error:
        raise Problem(
            problems.UNAUTHENTICATED,
            str(error),
            headers={"WWW-Authenticate": 'Bearer realm="replies", error="invalid_token"'},
        ) from None
    except ExpiredToken as error:
        raise Problem(problems.ALREADY_FINAL, str(error)) from None


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_MESSAGE_BYTES:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE,
            f"a reply takes up to {MAX_MESSAGE_BYTES} bytes; larger results go to blob storage",
            limit_bytes=MAX_MESSAGE_BYTES,
        )


def _checked(job_id: str, body: bytes) -> JobReply:
    """Return the reply if everything that reads it later can; raises Problem."""
    try:
        value = parse(body)
        found = reply_from_json(value)
        encode(value)
    except (ContractError, ValueError) as error:
        raise Problem(problems.INVALID_INPUT, f"this is no reply: {error}") from None
    _check_is_for(job_id, found)
    return found


def _check_is_for(job_id: str, found: JobReply) -> None:
    if found.job_id != job_id:
        raise Problem(problems.INVALID_INPUT, "job_id: is not the job that the address names")
    if isinstance(found.outcome, InlineBytes | PayloadRef):
        # It becomes the header of an answer that shows the result.
        media_type = found.outcome.media_type
        if not (media_type.isascii() and media_type.isprintable()):
            raise Problem(problems.INVALID_INPUT, "result.media_type: is no media type")
    if not isinstance(found.outcome, PayloadRef):
        return
    # A worker that could name any blob could show one caller another's data.
    if found.outcome.blob != result_blob(job_id):
        raise Problem(problems.INVALID_INPUT, f"result.blob: expected {result_blob(job_id)}")
    if found.outcome.size_bytes > MAX_RESULT_BYTES:
        raise Problem(problems.INVALID_INPUT, f"result.size_bytes: more than {MAX_RESULT_BYTES}")


def _final() -> Problem:
    return Problem(problems.ALREADY_FINAL, "the job is final; no reply is wanted any more")
