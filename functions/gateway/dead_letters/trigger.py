"""Store each message that arrives in a dead-letter queue, and end the message's job as failed."""

import contextlib
import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contract.brokers import REASON_EXPIRED, BrokerMessage, DeadMessage
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
from gateway.brokers.port import Queues
from gateway.clock import Clock
from gateway.dead_letters.store import letter_blob
from gateway.durable import Durable
from gateway.errors import FinalInstance, Unavailable, UnknownInstance, UnknownQueue
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.model import JobOutcome
from gateway.jobs.timeline import read_notes
from gateway.reply_tokens import ReplyTokens, owner_in_url
from gateway.shares.gate import Gate
from gateway.storage.blobs import Blobs

# A worker gives one of our failure codes as the reason. Callers see no other text.
_CODE: Final = re.compile("[a-z]{1,20}(-[a-z]{1,20}){0,4}")

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

_MAX_DEATH_CHARACTERS: Final = 300

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeadLetterTrigger:
    """Handles messages from the dead-letter queues."""

    blobs: Blobs
    queues: Queues
    jobs: Jobs
    tokens: ReplyTokens
    gate: Gate
    model_queues: frozenset[str]
    clock: Clock

    async def run(self, letter: DeadMessage, queue: str, durable: Durable) -> None:
        """Store a dead-lettered message. Then end its job as failed, or notify its producer.

        After Unavailable, the message is delivered again. A message whose time to live has expired
        is not stored, because sending it again would be useless.
        """
        request = _read_request(letter.body)
        if letter.reason == REASON_EXPIRED:
            # A job's orchestration has a timer for the deadline.
            if request is None or isinstance(request.reply_to, ReplyUrl):
                return
        else:
            last = await self._find_last_delivery(request)
            description = _describe(letter, last)
            name = await self._store(letter, request, queue, description)
            # infra/modules/alerts.bicep and infra/workbook.json parse this line.
            _log.error(
                "job %.100r was dead-lettered from %s (%.200r: %.500r); kept as the blob %s; "
                "redrive it when the cause has been removed",
                *(_job_id(letter, request), queue, letter.reason, description, name),
            )
        await self._notify(letter, request, queue, durable)

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
        letter: DeadMessage,
        request: JobRequest | None,
        queue: str,
        description: str | None,
    ) -> str:
        """Store a dead-lettered message unless an earlier run has done it; return the blob's name.

        An earlier message may have the same id. A gateway's new message replaces the earlier dead
        letter. A producer's gets a different blob name, because producers can choose any id.
        """
        name = letter_blob(queue, letter.message_id)
        data = _encode_letter(letter, description, self.clock())
        if await self.blobs.create(name, data) is not None:
            return name
        stored = await self.blobs.read(name)
        # An earlier run has stored the same message. Another write could overwrite a redrive mark.
        if stored is None or _enqueued_at(stored.data) == _enqueued_at(data):
            return name
        if self._is_from_gateway(request):
            await self.blobs.replace(name, data, stored.etag)
        else:
            name = letter_blob(queue, f"{letter.message_id}/{_enqueued_at(data)}")
            await self.blobs.create(name, data)
        return name

    def _is_from_gateway(self, request: JobRequest | None) -> bool:
        if request is None or request.reply_url is None:
            return False
        return self.tokens.is_issued(request.job_id, request.reply_url)

    async def _notify(
        self,
        letter: DeadMessage,
        request: JobRequest | None,
        queue: str,
        durable: Durable,
    ) -> None:
        job_id, now = _job_id(letter, request), self.clock()
        reply = JobReply(
            job_id=job_id,
            outcome=_error_of(letter.reason, _read_death(letter)),
            started_at=letter.enqueued_at or now,
            finished_at=now,
            attempt=max(1, letter.delivery_count or 1),
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
        message = BrokerMessage(
            encode_reply(reply),
            # It differs from the id of the job's own reply, which may still follow after a redrive.
            message_id=f"{reply.job_id}-dead-letter",
            correlation_id=reply.job_id,
        )
        try:
            await self.queues.send(queue, message)
        except UnknownQueue as error:
            _log.warning("job %s: no reply was sent to the producer: %r", reply.job_id, error)


def _job_id(letter: DeadMessage, request: JobRequest | None) -> str:
    return request.job_id if request else letter.correlation_id or letter.message_id


def _enqueued_at(stored: bytes) -> object:
    try:
        return json.loads(stored)["enqueued_at"]
    except (ValueError, KeyError, TypeError):
        return None


def _read_death(letter: DeadMessage) -> str | None:
    """Return how the worker process that last held the message died; None if unknown."""
    text = letter.properties.get(PROPERTY_WORKER_DEATH)
    return text[:_MAX_DEATH_CHARACTERS] if isinstance(text, str) and text else None


def _read_request(body: bytes) -> JobRequest | None:
    try:
        return decode_request(body)
    except ContractError:
        return None


def _error_of(reason: str | None, death: str | None) -> JobError:
    if reason == REASON_EXPIRED:
        text = "the deadline passed before a worker received the job"
        return JobError(FailureCode.EXPIRED, text, Stage.QUEUE, retryable=True)
    if reason and _CODE.fullmatch(reason):
        text = f"a worker refused the job's message: {reason}"
    else:
        text = "deliveries of the job failed as often as allowed"
        text += f": {death}" if death else ""
    return JobError(FailureCode.DEAD_LETTERED, text, Stage.RUN, retryable=False)


def _describe(letter: DeadMessage, last: DeliveryNote | None) -> str | None:
    """Return the broker's description, how the last worker died, and the last step."""
    step = None if last is None else _describe_last_step(last)
    parts = (letter.description, _read_death(letter), step)
    return "; ".join(filter(None, parts)) or None


def _describe_last_step(note: DeliveryNote) -> str:
    step = next(
        (text for mark, text in _STEPS if getattr(note.marks, mark) is not None),
        "the worker received the message",
    )
    worker = f" in {note.marks.worker}" if note.marks.worker else ""
    end = f", and ended with {note.code}" if note.code else ""
    return f"the last step of delivery {note.attempt}{worker}: {step}{end}"


def _encode_letter(letter: DeadMessage, description: str | None, now: datetime) -> bytes:
    enqueued_at = letter.enqueued_at
    return json.dumps(
        {
            "message_id": letter.message_id,
            "correlation_id": letter.correlation_id,
            "reason": letter.reason,
            "description": description,
            "delivery_count": letter.delivery_count,
            "content_type": letter.content_type,
            "enqueued_at": format_time(enqueued_at) if enqueued_at else None,
            "dead_lettered_at": format_time(now),
            "properties": dict(letter.properties),
            "body": letter.body.decode("utf-8", "replace"),
        },
        default=str,
    ).encode()
