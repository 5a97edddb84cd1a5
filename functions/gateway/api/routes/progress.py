"""/v1/jobs/{id}/progress: where workers tell how far a long job is, and hear that it shall stop."""

from fastapi import APIRouter, Request, Response

from contract.errors import ContractError
from contract.fields import Fields
from contract.names import EVENT_CANCEL, EVENT_STOPPED
from gateway import problems
from gateway.api.context import durable_of, services_of, unknown_job
from gateway.api.openapi.operations import PROGRESS_BODY, PROGRESS_RESPONSES
from gateway.api.responses import json_response
from gateway.api.routes.replies import check_token
from gateway.errors import FinalInstance, UnknownInstance
from gateway.jobs import record
from gateway.jobs.progress import ProgressStore, Report, report_from_json
from gateway.jobs.waiting import final_instance
from gateway.problems import Problem
from gateway.strict_json import parse

MAX_REPORT_BYTES = 8 * 1024

ENDED_WITHIN_SECONDS = 1.0
"""How soon a job that is being cancelled ends once it is said to have stopped."""

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
    if has_stopped:
        await _stop(request, job_id)
        return json_response({"status": "accepted"})
    instance = await durable_of(request).status(job_id)
    if instance is None:
        raise unknown_job(job_id)
    if instance.runtime_status.is_final:
        raise Problem(problems.ALREADY_FINAL, "the job is final; stop working on it")
    services = services_of(request)
    # Only a worker reports, so there is one, though this job has left the queue.
    if (found := record.of_instance(instance)) is not None:
        services.backlog.heard(found["model"])
    store = ProgressStore(services.blobs)
    known = await store.update(job_id, lambda old: old.told(report))
    if known.cancelling:
        raise Problem(problems.ALREADY_FINAL, "the job is cancelled; stop, and say so here")
    return json_response({"status": "accepted"})


async def _stop(request: Request, job_id: str) -> None:
    durable, services = durable_of(request), services_of(request)
    try:
        with services.waiters.listening(job_id) as bell:
            await durable.raise_event(job_id, EVENT_STOPPED, None)
            if await final_instance(durable, job_id, bell, ENDED_WITHIN_SECONDS) is not None:
                return
        # Whoever wrote the order to stop may have died before the orchestration heard of it.
        known = await ProgressStore(services.blobs).read(job_id)
        if known.cancelling and known.report is not None:
            order = {"started_at": known.report.started_at}
            await durable.raise_event(job_id, EVENT_CANCEL, order)
            # The first was dropped: what nobody waits for yet is lost.
            await durable.raise_event(job_id, EVENT_STOPPED, None)
    except UnknownInstance:
        raise unknown_job(job_id) from None
    except FinalInstance:
        return  # cancelled before it had started, or its time was over


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
