"""The routes that get the delivery log of a job's webhook, or deliver the webhook again."""

import contextlib
import logging

from fastapi import APIRouter, Request, Response

from contract.names import ORCHESTRATOR_WEBHOOK, webhook_instance
from gateway import problems
from gateway.durable import InstanceSnapshot
from gateway.errors import FinalInstance, UnknownInstance
from gateway.http.openapi.operations import problem_responses
from gateway.http.requests import (
    TextRoute,
    caller_of,
    check_job_id,
    durable_of,
    find_visible_instance,
    refuse_unknown_query,
    services_of,
    unknown_job,
)
from gateway.http.responses import json_response
from gateway.jobs.model import WebhookDelivery, is_final, read_ticket
from gateway.problems import HttpProblem
from gateway.webhooks.orchestrator import (
    DeliveryState,
    delivery_input,
    delivery_log,
    read_delivery_log,
    wake_event,
)

_log = logging.getLogger(__name__)

router = APIRouter(route_class=TextRoute)


@router.get(
    "/v1/jobs/{job_id}/webhook",
    tags=["jobs"],
    summary="Get the delivery log of a job's webhook",
    response_model=WebhookDelivery,
    response_description="The delivery log",
    responses=problem_responses(400, 404, 503),
)
async def get_webhook(request: Request, job_id: str) -> Response:
    """Return the attempts to deliver a job's webhook. There are none before the job has ended."""
    refuse_unknown_query(request)
    instance, _ = await find_visible_instance(request, job_id)
    _check_has_webhook(job_id, instance)
    log = await durable_of(request).status(webhook_instance(job_id))
    return json_response(read_delivery_log(log))


@router.post(
    "/v1/admin/jobs/{job_id}/webhook/redeliver",
    tags=["admin"],
    summary="Deliver a job's webhook again",
    status_code=202,
    response_model=WebhookDelivery,
    response_description="The delivery was started",
    responses=problem_responses(400, 404, 409, 503),
)
async def redeliver(request: Request, job_id: str) -> Response:
    """Deliver a job's webhook again now, with retries. The event id stays the same."""
    refuse_unknown_query(request)
    durable = durable_of(request)
    jobs = services_of(request).jobs
    instance = await jobs.snapshot(durable, check_job_id(job_id))
    job = await jobs.record_of(job_id, instance) if instance else None
    if instance is None or job is None:
        raise unknown_job(job_id)
    _check_has_webhook(job_id, instance)
    if not is_final(job):
        raise HttpProblem(
            problems.NOT_FINAL, "the job has not ended, so its webhook cannot be delivered yet"
        )
    instance_id = webhook_instance(job_id)
    found = await durable.status(instance_id)
    attempts = read_delivery_log(found)["attempts"]
    if found is not None and not found.runtime_status.is_final:
        # The delivery may have ended in the meantime.
        with contextlib.suppress(UnknownInstance, FinalInstance):
            await durable.raise_event(instance_id, wake_event(len(attempts)), None)
    else:
        await durable.start(instance_id, delivery_input(job_id, attempts), ORCHESTRATOR_WEBHOOK)
    _log.info(
        "caller %.100r requested a delivery of the webhook of job %s",
        *(caller_of(request).logged_name, job_id),
    )
    return json_response(delivery_log(DeliveryState.PENDING, attempts), 202)


def _check_has_webhook(job_id: str, instance: InstanceSnapshot) -> None:
    if read_ticket(instance.input).webhook_url is None:
        raise unknown_job(job_id)
