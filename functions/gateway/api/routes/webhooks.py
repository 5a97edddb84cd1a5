"""A job's webhook: its delivery log, and an operator's way to have it delivered again."""

import contextlib

from fastapi import APIRouter, Request, Response

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from gateway import problems
from gateway.api.context import (
    durable_of,
    jobs_of,
    known_job_id,
    owned,
    refuse_unknown_query,
    unknown_job,
)
from gateway.api.openapi.operations import REDELIVER_RESPONSES, WEBHOOK_RESPONSES
from gateway.api.responses import json_response
from gateway.durable import Durable
from gateway.errors import FinalInstance, UnknownInstance
from gateway.jobs.record import is_final
from gateway.jobs.ticket import read
from gateway.problems import Problem
from gateway.webhooks.log import State, log, of_instance
from gateway.webhooks.orchestrator import input_text, wake_event

router = APIRouter()


@router.get(
    "/v1/jobs/{job_id}/webhook",
    tags=["jobs"],
    summary="Look at the delivery of a job's webhook",
    responses=WEBHOOK_RESPONSES,
    response_model=None,
)
async def get_webhook(request: Request, job_id: str) -> Response:
    """When it was tried and how that went; nothing has been tried before the job has ended."""
    refuse_unknown_query(request)
    await owned(request, job_id)
    durable = durable_of(request)
    await _check_has_webhook(request, job_id)
    return json_response(of_instance(await durable.status(webhook_instance(job_id))))


@router.post(
    "/v1/admin/jobs/{job_id}/webhook/redeliver",
    tags=["admin"],
    summary="Deliver a job's webhook again",
    status_code=202,
    responses=REDELIVER_RESPONSES,
    response_model=None,
)
async def redeliver(request: Request, job_id: str) -> Response:
    """At once, for up to another day. It is the same event: its `webhook-id` does not change."""
    refuse_unknown_query(request)
    durable = durable_of(request)
    if not await _check_has_webhook(request, known_job_id(job_id)):
        raise Problem(problems.NOT_FINAL, "there is nothing to deliver yet")
    instance_id = webhook_instance(job_id)
    found = await durable.status(instance_id)
    attempts = of_instance(found)["attempts"]
    if found is not None and not found.runtime_status.is_final:
        await _wake(durable, instance_id, len(attempts))
    else:
        await durable.start(instance_id, input_text(job_id, attempts), ORCHESTRATOR_WEBHOOK)
    return json_response(log(State.PENDING, attempts), 202)


async def _wake(durable: Durable, instance_id: str, attempts: int) -> None:
    # It may be delivered, or given up, in this very moment.
    with contextlib.suppress(UnknownInstance, FinalInstance):
        await durable.raise_event(instance_id, wake_event(attempts), None)


async def _check_has_webhook(request: Request, job_id: str) -> bool:
    """Return whether the job has ended. Raises the problem unknown-job if it has no webhook."""
    instance = await durable_of(request).status(job_id)
    found = await jobs_of(request).record_of(job_id, instance) if instance else None
    if instance is None or found is None or read(instance.input).webhook_url is None:
        raise unknown_job(job_id)
    return is_final(found)
