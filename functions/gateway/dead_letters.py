"""Dead letters: what workers gave up on fails its job at once, and is kept for operators."""

import contextlib
import json
import logging
from datetime import UTC, datetime

import azure.functions as func

from contract.codec import decode_request, reply_to_json
from contract.errors import ContractError
from contract.messages import FailureCode, JobError, JobReply, Stage
from contract.names import EVENT_REPLY
from gateway.durable import Durable
from gateway.errors import FinalInstance, UnknownInstance
from gateway.services import Services

GIVEN_UP = JobError(
    FailureCode.DEAD_LETTERED,
    "workers took the job as often as allowed, and none finished it",
    Stage.RUN,
    retryable=False,
)

_log = logging.getLogger(__name__)


def letter_blob(queue: str, message_id: str) -> str:
    """Name of the blob that keeps a dead letter."""
    # Internal producers choose their own message ids: only what a blob name bears.
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in message_id)
    return f"dead-letters/{queue}/{safe or '_'}"


async def fail_job(
    message: func.ServiceBusMessage, queue: str, durable: Durable, services: Services
) -> None:
    """Keep the letter, and tell the job that it failed.

    The trigger takes the message off the dead-letter queue once this returns, so the letter goes
    to blob storage first. Raises Unavailable: then the message stays and comes again.
    """
    job_id = message.correlation_id or message.message_id
    _log.error(
        "job %s was dead-lettered from %s (%s: %s); kept as %s, send it again once the cause is "
        "removed",
        *(job_id, queue, message.dead_letter_reason, message.dead_letter_error_description),
        letter_blob(queue, message.message_id),
    )
    await services.payloads.put(
        letter_blob(queue, message.message_id), _letter(message), "application/json"
    )
    if not _waits_for_reply(message.get_body()):
        return
    # Where there is no such job, or it has ended, nobody waits any more.
    with contextlib.suppress(UnknownInstance, FinalInstance):
        await durable.raise_event(job_id, EVENT_REPLY, _reply(message, job_id, services.clock()))


def _waits_for_reply(body: bytes) -> bool:
    try:
        return decode_request(body).reply_url is not None
    except ContractError:
        # What cannot be read may be what was dead-lettered for it; if it has no job, that shows.
        return True


def _reply(message: func.ServiceBusMessage, job_id: str, now: datetime) -> dict[str, object]:
    enqueued_at = message.enqueued_time_utc or now
    if enqueued_at.tzinfo is None:
        enqueued_at = enqueued_at.replace(tzinfo=UTC)
    return reply_to_json(
        JobReply(
            job_id=job_id,
            outcome=GIVEN_UP,
            started_at=enqueued_at,
            finished_at=now,
            attempt=max(1, message.delivery_count or 1),
        )
    )


def _letter(message: func.ServiceBusMessage) -> bytes:
    return json.dumps(
        {
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "reason": message.dead_letter_reason,
            "description": message.dead_letter_error_description,
            "delivery_count": message.delivery_count,
            "content_type": message.content_type,
            "properties": message.application_properties,
            "body": message.get_body().decode("utf-8", "replace"),
        },
        default=str,
    ).encode()
