"""The activities of a job's orchestration. Each may run more than once."""

import dataclasses
import json
import math

from azure.servicebus import ServiceBusMessage

from contract.codec import encode_request, error_to_json
from contract.errors import MessageTooLarge, UnknownModel
from contract.messages import FailureCode, JobError, JobRequest, ReplyUrl, Stage
from contract.names import PROPERTY_TRACEPARENT
from contract.status import JobStatus
from gateway.jobs.jobs import outcome_at_deadline
from gateway.jobs.live import stopping_since
from gateway.jobs.outcome import OutcomeStore, outcome_from_json, outcome_to_json
from gateway.jobs.ticket import read
from gateway.queueing.priority import queue_of
from gateway.services import Services


async def enqueue(ticket_text: str, services: Services) -> str | None:
    """Send a job's request to its model's queue of its priority.

    Idempotent: a repeat has the same message id, which the queue's duplicate detection drops.
    Returns None, or the JSON text of a JobError where no repetition could help. Raises
    Unavailable where one could. A job that is past its deadline is not sent: its orchestration
    is ending already.
    """
    ticket = read(ticket_text)
    request = ticket.request()
    left = request.deadline - services.clock()
    if left.total_seconds() <= 0:
        return None
    try:
        queue = queue_of(services.catalogue.model(request.model), ticket.priority)
        reply_to = ReplyUrl(services.tokens.url(request.job_id, request.deadline, queue))
        message = _message(dataclasses.replace(request, reply_to=reply_to))
    except (MessageTooLarge, UnknownModel) as error:
        refused = JobError(FailureCode.UNAVAILABLE, str(error), Stage.QUEUE, retryable=False)
        return json.dumps(error_to_json(refused))
    # The SDK cuts to whole seconds, and what is sent with none left is never delivered.
    message.time_to_live = math.ceil(left.total_seconds())
    with services.tracing.sending(queue, request.job_id, ticket.traceparent) as trace:
        message.application_properties = {PROPERTY_TRACEPARENT: trace} if trace else None
        await services.queues.send(queue, message)
    return None


async def conclude(asked_text: str, services: Services) -> str:
    """Return a job's outcome as JSON text, recording the proposed one if the job has none.

    Args:
        asked_text: The JSON text of `{"job_id", "model", "propose"}`. `propose` is an
            outcome, or null to look only.

    Returns:
        The JSON text of `{"outcome": ...}`, of `{"stopping": {"started_at": ...}}` for a job
        without an outcome whose worker was told to stop, or of `{}`.

    Raises Unavailable if a repetition could help.
    """
    asked = json.loads(asked_text)
    job_id, proposed = asked["job_id"], asked["propose"]
    outcomes = OutcomeStore(services.blobs)
    if proposed is None:
        found = await outcomes.find(job_id)
    else:
        outcome = outcome_from_json(proposed)
        if outcome.status is JobStatus.EXPIRED:
            outcome = await outcome_at_deadline(services, job_id, asked["model"], outcome.at)
        found = await outcomes.record(job_id, outcome)
    if found is not None:
        services.waiters.notify(job_id, found)
        return json.dumps({"outcome": outcome_to_json(found)})
    started_at = await stopping_since(services, job_id, asked["model"])
    return json.dumps({"stopping": {"started_at": started_at}} if started_at else {})


def _message(request: JobRequest) -> ServiceBusMessage:
    return ServiceBusMessage(
        encode_request(request),
        content_type="application/json",
        message_id=request.job_id,
        correlation_id=request.job_id,
    )
