"""/v1/jobs/{id}/progress: where workers tell how far a long job is, and hear that it shall stop."""

import contextlib

from fastapi import APIRouter, Request, Response

from contract.errors import ContractError
from contract.fields import Fields
from gateway import problems
from gateway.api.context import jobs_of, services_of, unknown_job
from gateway.api.openapi.operations import PROGRESS_BODY, PROGRESS_RESPONSES
from gateway.api.responses import json_response
from gateway.api.routes.replies import check_token
from gateway.errors import FinalInstance, UnknownInstance
from gateway.jobs import record
from gateway.jobs.outcome import Outcome
from gateway.jobs.progress import ProgressStore, Report, report_from_json
from gateway.problems import Problem
from gateway.strict_json import parse

MAX_REPORT_BYTES = 8 * 1024

router = APIRouter(tags=["workers"])


@router.put(
    "/v1/jobs/{job_id}/progress",
    summary="Tell how far a running job is",
    responses=PROGRESS_RESPONSES,
    openapi_extra={"requestBody": PROGRESS_BODY},
    response_model=None,
)
async def put_progress(
    request: Request, job_id: str, expires: str = "", token: str = ""
) -> Response:
    """200 while the job is to go on, 410 once it is cancelled or final: stop at the next step.

    A report that is overtaken by a newer one changes nothing. With `"stopped": true` the worker
    says that it has stopped, which ends a job that is being cancelled.
    """
    check_token(request, job_id, expires, token)
    report, has_stopped = _read(await _body(request))
    found = await jobs_of(request).find(job_id)
    if found is None:
        raise unknown_job(job_id)
    if has_stopped:
        await _stop(request, job_id)
        return json_response({"status": "accepted"})
    if record.is_final(found):
        raise Problem(problems.ALREADY_FINAL, "the job is final; stop working on it")
    services = services_of(request)
    # Only a worker reports, so there is one, though this job has left the queue.
    services.backlog.heard(found["model"])
    store = ProgressStore(services.blobs)
    known = await store.update(job_id, lambda old: old.told(report))
    if known.cancelling:
        raise Problem(problems.ALREADY_FINAL, "the job is cancelled; stop, and say so here")
    return json_response({"status": "accepted"})


async def _stop(request: Request, job_id: str) -> None:
    """End a job whose worker was told to stop; leave any other as it is."""
    services = services_of(request)
    known = await ProgressStore(services.blobs).read(job_id)
    if not known.cancelling or known.report is None:
        return
    stopped = Outcome.cancelled(services.clock(), known.report.started_at)
    # If the orchestration has ended, so has the job.
    with contextlib.suppress(UnknownInstance, FinalInstance):
        await jobs_of(request).finish(job_id, stopped)


async def _body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit():
        _check_size(int(announced[:15]))
    body = await request.body()
    _check_size(len(body))
    return body


def _check_size(size_bytes: int) -> None:
    if size_bytes > MAX_REPORT_BYTES:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE,
            f"a report takes up to {MAX_REPORT_BYTES} bytes",
            limit_bytes=MAX_REPORT_BYTES,
        )


def _read(body: bytes) -> tuple[Report, bool]:
    try:
        value = parse(body)
        has_stopped = Fields(value).has("stopped") and Fields(value).boolean("stopped")
        return report_from_json(value), has_stopped
    except (ContractError, ValueError) as error:
        raise Problem(problems.INVALID_INPUT, f"this is no report: {error}") from None
