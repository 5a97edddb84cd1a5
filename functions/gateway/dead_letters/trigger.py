"""Store each message that arrives in a dead-letter queue, and end the message's job as failed."""

import contextlib
import json
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import azure.functions as func
from azure.servicebus import ServiceBusMessage

from contract.deliveries import DeliveryNote
from contract.errors import ContractError
from contract.messages import (
    FailureCode,
    JobError,
    JobReply,
    JobRequest,
    ReplyQueue,
    ReplyUrl,
    Stage,
    decode_request,
    encode_reply,
    format_time,
)
from contract.names import PROPERTY_WORKER_DEATH
from contract.queues import may_take_replies
from gateway.clock import Clock
from gateway.dead_letters.store import letter_blob
from gateway.durable import Durable
from gateway.errors import FinalInstance, Unavailable, UnknownInstance, UnknownQueue
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.model import JobOutcome
from gateway.jobs.timeline import read_notes
from gateway.queues.client import Queues
from gateway.reply_tokens import ReplyTokens, owner_in_url
from gateway.shares.gate import Gate
from gateway.storage.blobs import Blobs

# A worker gives one of our failure codes as the reason. Callers see no other text.
_CODE: Final = re.compile("[a-z]{1,20}(-[a-z]{1,20}){0,4}")

# Service Bus writes the reason into the message's application properties. In Azure, the attributes
# with these names of azure.functions' message are empty.
_REASON: Final = "DeadLetterReason"
_DESCRIPTION: Final = "DeadLetterErrorDescription"

# What a worker did last in a delivery, by the latest mark in its note.
_STEPS: Final = (
    ("replied_ms", "the worker sent the reply"),
    ("stored_ms", "the result was stored"),
    ("ran_ms", "the model returned"),
    ("first_chunk_ms", "the model emitted chunks"),
    ("batched_ms", "the model ran"),
    ("decoded_ms", "the job waited for a batch"),
    ("fetched_ms", "the input was decoded"),
)

# The reason that Service Bus gives for a message whose time to live has expired.
_EXPIRED: Final = "TTLExpiredException"

_MAX_DEATH_CHARACTERS: Final = 300

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetterTrigger:
    """The Azure function that handles messages from the dead-letter queues."""

    blobs: Blobs
    queues: Queues
    jobs: Jobs
    tokens: ReplyTokens
    gate: Gate
    model_queues: frozenset[str]
    clock: Clock

    async def run(self, message: func.ServiceBusMessage, queue: str, durable: Durable) -> None:
        """Store a dead-lettered message. Then end its job as failed, or notify its producer.

        After Unavailable, the message is delivered again. A message whose time to live has expired
        is not stored, because sending it again would be useless.
        """
        request = _read_request(message.get_body())
        if _read_property(message, _REASON) == _EXPIRED:
            # A job's orchestration has a timer for the deadline.
            if request is None or isinstance(request.reply_to, ReplyUrl):
                return
        else:
            last = await self._find_last_delivery(request)
            description = _describe(message, last)
            name = await self._store(message, request, queue, description)
            reason = _read_property(message, _REASON)
            # infra/modules/alerts.bicep and infra/workbook.json parse this line.
            _log.error(
                "job %.100r was dead-lettered from %s (%.200r: %.500r); kept as the blob %s; "
                "redrive it when the cause has been removed",
                *(_job_id(message, request), queue, reason, description, name),
            )
        await self._notify(message, request, queue, durable)

    async def _find_last_delivery(self, request: JobRequest | None) -> DeliveryNote | None:
        """Return the latest note about the gateway's job, if one can be read."""
        if request is None or not self._is_from_gateway(request):
            return None
        try:
            notes = await read_notes(self.blobs, self.tokens, request.job_id, request.deadline)
        except Unavailable:
            return None
        return notes[-1] if notes else None

    async def _store(
        self,
        message: func.ServiceBusMessage,
        request: JobRequest | None,
        queue: str,
        description: str | None,
    ) -> str:
        """Store a dead-lettered message unless an earlier run has done it; return the blob's name.

        An earlier message may have the same id. A gateway's new message replaces the earlier dead
        letter. A producer's gets a different blob name, because producers can choose any id.
        """
        name = letter_blob(queue, _message_id(message))
        data = _encode_letter(message, description, self.clock())
        if await self.blobs.create(name, data) is not None:
            return name
        stored = await self.blobs.read(name)
        # An earlier run has stored the same message. Another write could overwrite a redrive mark.
        if stored is None or _enqueued_at(stored.data) == _enqueued_at(data):
            return name
        if self._is_from_gateway(request):
            await self.blobs.replace(name, data, stored.etag)
        else:
            name = letter_blob(queue, f"{_message_id(message)}/{_enqueued_at(data)}")
            await self.blobs.create(name, data)
        return name

    def _is_from_gateway(self, request: JobRequest | None) -> bool:
        if request is None or request.reply_url is None:
            return False
        return self.tokens.is_issued(request.job_id, request.reply_url)

    async def _notify(
        self,
        message: func.ServiceBusMessage,
        request: JobRequest | None,
        queue: str,
        durable: Durable,
    ) -> None:
        job_id, now = _job_id(message, request), self.clock()
        reply = JobReply(
            job_id=job_id,
            outcome=_error_of(_read_property(message, _REASON), _read_death(message)),
            started_at=_as_utc(message.enqueued_time_utc) or now,
            finished_at=now,
            attempt=max(1, message.delivery_count or 1),
        )
        # A producer can send a message with the id of any job. It must not end this job.
        match request.reply_to if request else None:
            case ReplyUrl() if self._is_from_gateway(request):
                outcome = JobOutcome.replied(reply, self.clock())
                # There is no orchestration if the gateway died after it had sent the message. The
                # outcome is recorded for a repeated request with the same Idempotency-Key.
                with contextlib.suppress(UnknownInstance, FinalInstance):
                    await self.jobs.finish(
                        durable, job_id, outcome, request.model if request else None
                    )
                if request is not None:
                    owner = owner_in_url(request.reply_url or "")
                    self.gate.record_end(request.model, job_id, owner)
            case ReplyQueue(name):
                await self._send_reply(reply, name)

    async def _send_reply(self, reply: JobReply, queue: str) -> None:
        """Send a reply to the producer's queue, or log a warning if it is not valid.

        An error would cause another delivery of the dead-lettered message.
        """
        if not may_take_replies(queue, self.model_queues):
            _log.warning(
                "job %s: no reply was sent to the producer: %.100r is not a permitted reply queue",
                reply.job_id,
                queue,
            )
            return
        message = ServiceBusMessage(
            encode_reply(reply),
            content_type="application/json",
            # It differs from the id of the job's own reply, which may still follow after a redrive.
            message_id=f"{reply.job_id}-dead-letter",
            correlation_id=reply.job_id,
        )
        try:
            await self.queues.send(queue, message)
        except UnknownQueue as error:
            _log.warning("job %s: no reply was sent to the producer: %r", reply.job_id, error)


def _message_id(message: func.ServiceBusMessage) -> str:
    """Return the message's id, or one with its sequence number if the producer set none."""
    return message.message_id or f"sequence-number-{message.sequence_number}"


def _job_id(message: func.ServiceBusMessage, request: JobRequest | None) -> str:
    return request.job_id if request else message.correlation_id or _message_id(message)


def _enqueued_at(letter: bytes) -> object:
    try:
        return json.loads(letter)["enqueued_at"]
    except (ValueError, KeyError, TypeError):
        return None


def _read_property(message: func.ServiceBusMessage, name: str) -> str | None:
    value = (message.application_properties or {}).get(name)
    return value if isinstance(value, str) else None


def _read_death(message: func.ServiceBusMessage) -> str | None:
    """Return how the worker process that last held the message died; None if unknown."""
    text = _read_property(message, PROPERTY_WORKER_DEATH)
    return text[:_MAX_DEATH_CHARACTERS] if text else None


def _read_request(body: bytes) -> JobRequest | None:
    try:
        return decode_request(body)
    except ContractError:
        return None


def _error_of(reason: str | None, death: str | None) -> JobError:
    if reason == _EXPIRED:
        text = "the deadline passed before a worker received the job"
        return JobError(FailureCode.EXPIRED, text, Stage.QUEUE, retryable=True)
    if reason and _CODE.fullmatch(reason):
        text = f"a worker refused the job's message: {reason}"
    else:
        text = "deliveries of the job failed as often as allowed"
        text += f": {death}" if death else ""
    return JobError(FailureCode.DEAD_LETTERED, text, Stage.RUN, retryable=False)


def _as_utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time


def _describe(message: func.ServiceBusMessage, last: DeliveryNote | None) -> str | None:
    """Return the broker's description, how the last worker died, and the last step."""
    step = None if last is None else _describe_last_step(last)
    parts = (_read_property(message, _DESCRIPTION), _read_death(message), step)
    return "; ".join(filter(None, parts)) or None


def _describe_last_step(note: DeliveryNote) -> str:
    step = next(
        (text for mark, text in _STEPS if getattr(note.marks, mark) is not None),
        "the worker received the message",
    )
    worker = f" in {note.marks.worker}" if note.marks.worker else ""
    end = f", and ended with {note.code}" if note.code else ""
    return f"the last step of delivery {note.attempt}{worker}: {step}{end}"


def _encode_letter(
    message: func.ServiceBusMessage, description: str | None, now: datetime
) -> bytes:
    enqueued_at = _as_utc(message.enqueued_time_utc)
    return json.dumps(
        {
            "message_id": _message_id(message),
            "correlation_id": message.correlation_id,
            "reason": _read_property(message, _REASON),
            "description": description,
            "delivery_count": message.delivery_count,
            "content_type": message.content_type,
            "enqueued_at": format_time(enqueued_at) if enqueued_at else None,
            "dead_lettered_at": format_time(now),
            "properties": message.application_properties,
            "body": message.get_body().decode("utf-8", "replace"),
        },
        default=str,
    ).encode()
