"""Send the request of a job to the queue of its model."""

import dataclasses
import math
from dataclasses import dataclass

from azure.servicebus import ServiceBusMessage

from contract.catalogue import Catalogue, Priority, queue_of
from contract.messages import JobRequest, ReplyUrl, encode_request
from contract.names import PROPERTY_TRACEPARENT
from gateway.clock import Clock
from gateway.queues.client import Queues
from gateway.reply_tokens import ReplyTokens
from gateway.telemetry import GatewayTracing


@dataclass(frozen=True, slots=True)
class RequestSender:
    """Sends the requests of jobs to the queues of their models."""

    catalogue: Catalogue
    queues: Queues
    tokens: ReplyTokens
    tracing: GatewayTracing
    clock: Clock

    async def send(self, request: JobRequest, priority: Priority, traceparent: str | None) -> None:
        """Send a request, with its reply URL, to the model's queue, unless its deadline has passed.

        The queue drops the message of a repeated call as a duplicate. Raises UnknownModel,
        MessageTooLarge, or Unavailable, after which a repeated call may succeed.
        """
        left = request.deadline - self.clock()
        if left.total_seconds() <= 0:
            return
        queue = queue_of(self.catalogue.model(request.model), priority)
        reply_to = ReplyUrl(self.tokens.url(request.job_id, request.deadline, queue))
        message = ServiceBusMessage(
            encode_request(dataclasses.replace(request, reply_to=reply_to)),
            content_type="application/json",
            message_id=request.job_id,
            correlation_id=request.job_id,
        )
        # Rounded up, because the SDK truncates to seconds and 0 s would prevent the delivery.
        message.time_to_live = math.ceil(left.total_seconds())
        with self.tracing.sending(queue, request.job_id, traceparent) as trace:
            message.application_properties = {PROPERTY_TRACEPARENT: trace} if trace else None
            await self.queues.send(queue, message)
