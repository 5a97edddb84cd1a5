"""Dead letters: what workers gave up on fails its job at once, and is kept for operators."""

import contextlib
import hashlib
import json
import logging
import re
from datetime import UTC, datetime
from typing import Final

import azure.functions as func
from azure.servicebus import ServiceBusMessage

from contract.codec import decode_request, encode_reply, format_time
from contract.errors import ContractError
from contract.messages import (
    FailureCode,
    JobError,
    JobReply,
    JobRequest,
    ReplyQueue,
    ReplyUrl,
    ReplyWebhook,
    Stage,
)
from contract.names import webhook_instance
from contract.queues import may_take_replies, names
from contract.webhook import event_id
from gateway.durable import Durable
from gateway.errors import FinalInstance, UnknownInstance, UnknownQueue
from gateway.jobs.jobs import Jobs
from gateway.jobs.outcome import Outcome
from gateway.queueing.letters import letter_blob
from gateway.services import Services
from gateway.webhooks import replies
from gateway.webhooks.replies import Told

# What a worker gives as its reason is a code of ours; whatever else stands there is not shown.
_CODE: Final = re.compile("[a-z]{1,20}(-[a-z]{1,20}){0,4}")

# Service Bus writes why into the message's own properties. The trigger gives them no other way:
# the attributes of azure.functions' message that are called so stay empty in Azure.
_REASON: Final = "DeadLetterReason"
_DESCRIPTION: Final = "DeadLetterErrorDescription"

# The reason where a message's time to live ran out.
_EXPIRED: Final = "TTLExpiredException"

_log = logging.getLogger(__name__)


async def fail_job(
    message: func.ServiceBusMessage, queue: str, durable: Durable, services: Services
) -> None:
    """Keep the letter, and tell the job that it failed.

    The trigger takes the message off the dead-letter queue once this returns, so the letter goes
    to blob storage first. Raises Unavailable: then the message stays and comes again. A message
    whose time ran out is no letter: nothing is wrong with it, and it is too late to send it again.
    """
    request = _request(message.get_body())
    if _written(message, _REASON) == _EXPIRED:
        # The orchestration of a job of ours has a timer for that.
        if request is None or isinstance(request.reply_to, ReplyUrl):
            return
    else:
        _log.error(
            "job %.100r was dead-lettered from %s (%.200r: %.500r); kept as %s, send it again once "
            "the cause is removed",
            *(
                _job_id(message, request),
                queue,
                _written(message, _REASON),
                _written(message, _DESCRIPTION),
            ),
            letter_blob(queue, message.message_id),
        )
        await _keep(message, queue, services)
    await _tell(message, request, queue, durable, services)


async def _tell(
    message: func.ServiceBusMessage,
    request: JobRequest | None,
    queue: str,
    durable: Durable,
    services: Services,
) -> None:
    job_id = _job_id(message, request)
    reply = _reply(message, job_id, services.clock())
    # What cannot be read may be what it was dead-lettered for; if it has no job, that shows.
    match request.reply_to if request else ReplyUrl("unknown"):
        case ReplyUrl():
            # If there is no such job, or it has ended, nobody waits any more.
            if await durable.status(job_id) is not None:
                outcome = Outcome.replied(reply, services.clock())
                with contextlib.suppress(UnknownInstance, FinalInstance):
                    await Jobs(durable, services).finish(job_id, outcome)
        case ReplyQueue(name):
            await _send(reply, name, services)
        case ReplyWebhook(url):
            told = Told(job_id, event_id(_event(job_id)), url, encode_reply(reply).decode())
            await replies.announce(told, _delivery(job_id, message, queue), durable)


def _job_id(message: func.ServiceBusMessage, request: JobRequest | None) -> str:
    return request.job_id if request else message.correlation_id or message.message_id


async def _send(reply: JobReply, queue: str, services: Services) -> None:
    """Tell a producer on its queue; one that cannot be told does not keep the letter coming."""
    if not may_take_replies(queue, names(services.catalogue)):
        _log.warning("job %s: replies may not go to the queue %.100r", reply.job_id, queue)
        return
    told = ServiceBusMessage(
        encode_reply(reply),
        content_type="application/json",
        message_id=_event(reply.job_id),
        correlation_id=reply.job_id,
    )
    try:
        await services.queues.send(queue, told)
    except UnknownQueue as error:
        _log.warning("job %s: its producer is not told that it failed: %s", reply.job_id, error)


def _event(job_id: str) -> str:
    # Not the id of the job's reply: a letter that is sent again may bring that one still.
    return f"{job_id}-dead-letter"


def _delivery(job_id: str, message: func.ServiceBusMessage, queue: str) -> str:
    """Instance id of the delivery: the same each time that the trigger gets this letter."""
    known = f"{queue}/{message.message_id}/{message.enqueued_time_utc}"
    mark = hashlib.sha256(known.encode("utf-8", "replace")).hexdigest()[:16]
    return webhook_instance(f"{job_id}-{mark}")


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


def _written(message: func.ServiceBusMessage, name: str) -> str | None:
    value = (message.application_properties or {}).get(name)
    return value if isinstance(value, str) else None


def _request(body: bytes) -> JobRequest | None:
    try:
        return decode_request(body)
    except ContractError:
        return None


def _reply(message: func.ServiceBusMessage, job_id: str, now: datetime) -> JobReply:
    return JobReply(
        job_id=job_id,
        outcome=_why(_written(message, _REASON)),
        started_at=_utc(message.enqueued_time_utc) or now,
        finished_at=now,
        attempt=max(1, message.delivery_count or 1),
    )


def _why(reason: str | None) -> JobError:
    if reason == _EXPIRED:
        late = "the deadline passed before a worker took the job"
        return JobError(FailureCode.EXPIRED, late, Stage.QUEUE, retryable=True)
    if reason and _CODE.fullmatch(reason):
        said = f"a worker refused the job's message: {reason}"
    else:
        said = "workers took the job as often as allowed, and none finished it"
    return JobError(FailureCode.DEAD_LETTERED, said, Stage.RUN, retryable=False)


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _letter(message: func.ServiceBusMessage, now: datetime) -> bytes:
    enqueued_at = _utc(message.enqueued_time_utc)
    return json.dumps(
        {
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "reason": _written(message, _REASON),
            "description": _written(message, _DESCRIPTION),
            "delivery_count": message.delivery_count,
            "content_type": message.content_type,
            "enqueued_at": format_time(enqueued_at) if enqueued_at else None,
            "dead_lettered_at": format_time(now),
            "properties": message.application_properties,
            "body": message.get_body().decode("utf-8", "replace"),
        },
        default=str,
    ).encode()
