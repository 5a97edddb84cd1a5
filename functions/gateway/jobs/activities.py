"""What a job's orchestration does to the world: it sends the request, and may do so twice."""

import dataclasses
import json
import math

from azure.servicebus import ServiceBusMessage

from contract.codec import encode_request, error_to_json
from contract.errors import MessageTooLarge, UnknownModel
from contract.messages import FailureCode, JobError, JobRequest, ReplyUrl, Stage
from contract.names import PROPERTY_TRACEPARENT
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


def _message(request: JobRequest) -> ServiceBusMessage:
    return ServiceBusMessage(
        encode_request(request),
        content_type="application/json",
        message_id=request.job_id,
        correlation_id=request.job_id,
    )
