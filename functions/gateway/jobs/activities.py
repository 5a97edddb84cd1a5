"""The activities of a job's orchestration. Durable Functions may run an activity repeatedly."""

import dataclasses
import json
import logging
import math
from dataclasses import dataclass
from typing import Final

from azure.servicebus import ServiceBusMessage

from contract.catalogue import Catalogue, queue_of
from contract.errors import MessageTooLarge, UnknownModel
from contract.messages import (
    FailureCode,
    JobError,
    JobRequest,
    ReplyUrl,
    Stage,
    encode_request,
    error_to_json,
)
from contract.names import PROPERTY_TRACEPARENT
from gateway.clock import Clock
from gateway.http.authentication import ReplyTokens
from gateway.jobs.lifecycle import OutcomeStore, Waiters, outcome_at_deadline
from gateway.jobs.model import (
    JobStatus,
    Record,
    outcome_from_json,
    outcome_to_json,
    read_ticket,
)
from gateway.jobs.progress import ProgressStore
from gateway.queues.client import Queues
from gateway.telemetry import GatewayTracing

_NOT_LOGGED: Final = {JobStatus.SUCCEEDED, JobStatus.CANCELLED}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Enqueue:
    """The activity `enqueue`, which sends a job's request to the queue of its model."""

    catalogue: Catalogue
    queues: Queues
    tokens: ReplyTokens
    tracing: GatewayTracing
    clock: Clock

    async def run(self, ticket_text: str) -> str | None:
        """Send the job's request to the queue of its model.

        A repeated call sends a message with the same id, which the queue's duplicate detection
        drops. If the job's deadline has passed, nothing is sent, because the orchestration is about
        to end the job.

        Args:
            ticket_text: The JSON text of the job's Ticket.

        Returns:
            None if the request was sent or the deadline has passed. The JSON text of a JobError if
            the request can never be sent.

        Raises:
            Unavailable: The queue did not accept the message. A repeated call may succeed.
        """
        ticket = read_ticket(ticket_text)
        request = ticket.request()
        left = request.deadline - self.clock()
        if left.total_seconds() <= 0:
            return None
        try:
            queue = queue_of(self.catalogue.model(request.model), ticket.priority)
            reply_to = ReplyUrl(self.tokens.url(request.job_id, request.deadline, queue))
            message = _message(dataclasses.replace(request, reply_to=reply_to))
        except (MessageTooLarge, UnknownModel) as error:
            refused = JobError(FailureCode.UNAVAILABLE, str(error), Stage.QUEUE, retryable=False)
            return json.dumps(error_to_json(refused))
        # Rounded up, because the SDK truncates to seconds and 0 s would prevent the delivery.
        message.time_to_live = math.ceil(left.total_seconds())
        with self.tracing.sending(queue, request.job_id, ticket.traceparent) as trace:
            message.application_properties = {PROPERTY_TRACEPARENT: trace} if trace else None
            await self.queues.send(queue, message)
        return None


@dataclass(frozen=True, slots=True)
class Conclude:
    """The activity `conclude`, which records a proposed outcome, and returns a job's outcome."""

    outcomes: OutcomeStore
    progress: ProgressStore
    waiters: Waiters

    async def run(self, asked_text: str) -> str:
        """Record the proposed outcome unless the job has an outcome; return the job's outcome.

        Args:
            asked_text: The JSON text of an object with the members `job_id`, `model` and `propose`.
                `propose` is the proposed outcome. It is null if nothing is to be recorded.

        Returns:
            JSON text: `{"outcome": ...}` if the job has an outcome. Otherwise
            `{"stopping": {"started_at": ...}}` if the job's worker was ordered to stop. Otherwise
            `{}`.

        Raises:
            Unavailable: The storage did not respond. A repeated call may succeed.
        """
        asked = json.loads(asked_text)
        job_id, proposed = asked["job_id"], asked["propose"]
        if proposed is None:
            found = await self.outcomes.find(job_id)
        else:
            outcome = outcome_from_json(proposed)
            if outcome.status is JobStatus.EXPIRED:
                outcome = await outcome_at_deadline(
                    self.progress, job_id, asked["model"], outcome.at
                )
            found = await self.outcomes.record(job_id, outcome)
        if found is not None:
            self.waiters.notify(job_id, found)
            return json.dumps({"outcome": outcome_to_json(found)})
        started_at = await self.progress.stopping_since(job_id, asked["model"])
        return json.dumps({"stopping": {"started_at": started_at}} if started_at else {})


def log_failure(job_id: str, record: Record) -> None:
    """Log a job that failed or expired. Alerts in infra/modules/alerts.bicep parse the line."""
    if record["status"] not in _NOT_LOGGED:
        code = (record.get("error") or {}).get("code", "unknown")
        job = (job_id, record["model"], record["status"], code)
        _log.warning("job %s of %s ended as %s: %s", *job)


def _message(request: JobRequest) -> ServiceBusMessage:
    return ServiceBusMessage(
        encode_request(request),
        content_type="application/json",
        message_id=request.job_id,
        correlation_id=request.job_id,
    )
