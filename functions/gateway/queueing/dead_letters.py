"""Dead letters: what workers gave up on fails its job at once, and is kept for operators."""

import contextlib
import json
import logging
from datetime import UTC, datetime

import azure.functions as func
from azure.servicebus import ServiceBusMessage

from contract.codec import decode_request, encode_reply, format_time, reply_to_json
from contract.errors import ContractError
from contract.messages import (
    FailureCode,
    JobError,
    JobReply,
    ReplyQueue,
    ReplyTo,
    ReplyUrl,
    Stage,
)
from contract.names import EVENT_REPLY
from gateway.durable import Durable
from gateway.errors import FinalInstance, UnknownInstance
from gateway.queueing.letters import letter_blob
from gateway.services import Services

GIVEN_UP = JobError(
    FailureCode.DEAD_LETTERED,
    "workers took the job as often as allowed, and none finished it",
    Stage.RUN,
    retryable=False,
)

_log = logging.getLogger(__name__)


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
    await _keep(message, queue, services)
    reply_to, reply = _reply_to(message.get_body()), _reply(message, job_id, services.clock())
    if isinstance(reply_to, ReplyQueue):
        body = encode_reply(reply)
        told = ServiceBusMessage(
            body, content_type="application/json", message_id=job_id, correlation_id=job_id
        )
        await services.queues.send(reply_to.queue, told)
    if not isinstance(reply_to, ReplyUrl):
        return
    # Where there is no such job, or it has ended, nobody waits any more.
    with contextlib.suppress(UnknownInstance, FinalInstance):
        await durable.raise_event(job_id, EVENT_REPLY, reply_to_json(reply))


async def _keep(message: func.ServiceBusMessage, queue: str, services: Services) -> None:
    """Write the letter, unless it is there from an earlier run of the trigger."""
    blob = letter_blob(queue, message.message_id)
    data = _letter(message, services.clock())
    if await services.blobs.create(blob, data) is not None:
        return
    kept = await services.blobs.read(blob)
    # What has been marked as sent again since must stay so; another message of the same id is news.
    if kept is not None and _enqueued_at(kept.data) != _enqueued_at(data):
        await services.blobs.replace(blob, data, kept.etag)


def _enqueued_at(letter: bytes) -> object:
    try:
        return json.loads(letter)["enqueued_at"]
    except (ValueError, KeyError, TypeError):
        return None


def _reply_to(body: bytes) -> ReplyTo | None:
    try:
        return decode_request(body).reply_to
    except ContractError:
        # What cannot be read may be what was dead-lettered for it; if it has no job, that shows.
        return ReplyUrl("unknown")


def _reply(message: func.ServiceBusMessage, job_id: str, now: datetime) -> JobReply:
    return JobReply(
        job_id=job_id,
        outcome=GIVEN_UP,
        started_at=_utc(message.enqueued_time_utc) or now,
        finished_at=now,
        attempt=max(1, message.delivery_count or 1),
    )


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _letter(message: func.ServiceBusMessage, now: datetime) -> bytes:
    enqueued_at = _utc(message.enqueued_time_utc)
    return json.dumps(
        {
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "reason": message.dead_letter_reason,
            "description": message.dead_letter_error_description,
            "delivery_count": message.delivery_count,
            "content_type": message.content_type,
            "enqueued_at": format_time(enqueued_at) if enqueued_at else None,
            "dead_lettered_at": format_time(now),
            "properties": message.application_properties,
            "body": message.get_body().decode("utf-8", "replace"),
        },
        default=str,
    ).encode()
