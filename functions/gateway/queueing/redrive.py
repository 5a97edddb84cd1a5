"""To send a dead letter again, once, whoever asks how often and whatever dies in between.

A job ends with its dead letter, and what has ended never changes. So the caller's work goes on as a
new job with a new id, made of the old one's ticket: the same input, tenant and webhook, and as much
time as the old one had. A message of a producer that is no gateway has no job here: it is sent
again as it was, to the queue that it was in, under a new message id, since that queue drops what
it has seen.

The letter is marked before anything is sent, and only one mark can be written. Who comes later
finds it and, once the first must have given up, does the rest.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from azure.servicebus import ServiceBusMessage
from uuid_utils import uuid7

from contract.catalogue import Model
from contract.codec import encode_request, format_time
from contract.messages import JobRequest, PayloadRef
from contract.names import PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE
from gateway.durable import Durable, Instance
from gateway.errors import NotRedrivable, UnknownLetter
from gateway.jobs import ticket
from gateway.jobs.jobs import Jobs
from gateway.jobs.record import is_final
from gateway.queueing.letters import Letter, Redrive, blob_of, letter_queue, read
from gateway.services import Services

SETTLE_SECONDS: Final = 5.0
"""How long the failure that a letter brings to its job may take to arrive there."""

AT_WORK: Final = timedelta(seconds=20)
"""How long who has marked a letter is taken to be still sending it."""


@dataclass(frozen=True, slots=True)
class Redriven:
    """As which job a letter was sent again; `is_repeat` if that had been done before."""

    job_id: str
    is_new_job: bool
    is_repeat: bool


async def redrive(services: Services, durable: Durable, model: Model, letter_id: str) -> Redriven:
    """Send a letter again; raises UnknownLetter, NotRedrivable or Unavailable."""
    letter, etag = await _kept(services, model, letter_id)
    request = letter.request
    if request is None:
        raise NotRedrivable("the message is no request that could be read")
    is_ours = request.reply_url is not None
    if letter.redrive is not None and letter.redrive.is_done:
        return Redriven(letter.redrive.job_id, is_ours, is_repeat=True)
    old = await _ended(services, durable, request.job_id) if is_ours else None
    await _check_input(services, request)
    mark, etag = await _marked(services, model, letter, etag, is_ours)
    if old is not None:
        if await durable.status(mark.job_id) is None:
            again = _again(services, old, mark.job_id)
            await durable.start(again.job_id, again.text)
            created_at = datetime.fromisoformat(again.created_at)
            services.backlog.accepted(again.model, created_at, again.priority)
    else:
        queue = letter_queue(model, letter_id)
        await services.queues.send(queue, _message(services, letter, request, mark))
    done = replace(mark, is_done=True)
    await services.blobs.replace(blob_of(model, letter_id), letter.marked(done), etag)
    return Redriven(mark.job_id, is_ours, is_repeat=False)


async def _kept(services: Services, model: Model, letter_id: str) -> tuple[Letter, str]:
    note = await services.blobs.read(blob_of(model, letter_id))
    if note is None:
        raise UnknownLetter(letter_id)
    return read(letter_id, note.data), note.etag


async def _ended(services: Services, durable: Durable, job_id: str) -> Instance:
    """Return the orchestration of the job, which its dead letter ends; raises NotRedrivable."""
    jobs = Jobs(durable, services)
    with services.waiters.waiting(job_id) as waiter:
        instance = await durable.status(job_id)
        found = await jobs.record_of(job_id, instance) if instance else None
        if instance is None or found is None:
            raise NotRedrivable("the job is no longer kept")
        if not is_final(found):
            found = await jobs.wait(job_id, found, waiter, SETTLE_SECONDS)
    if found is None:
        raise NotRedrivable("the job has not ended yet; ask again in a moment")
    return instance


async def _check_input(services: Services, request: JobRequest) -> None:
    kept = request.input
    if isinstance(kept, PayloadRef) and await services.blobs.look(kept.blob, 1) is None:
        raise NotRedrivable("the job's input is no longer kept")


async def _marked(
    services: Services, model: Model, letter: Letter, etag: str, is_ours: bool
) -> tuple[Redrive, str]:
    """The letter's one mark, written now or by who died before it was done; and its new ETag."""
    if letter.redrive is not None:
        if services.clock() - _time(letter.redrive.at) < AT_WORK:
            raise NotRedrivable("the letter is just being sent again")
        return letter.redrive, etag
    job_id = str(uuid7()) if is_ours else letter.job_id
    mark = Redrive(job_id, format_time(services.clock()), is_done=False)
    written = await services.blobs.replace(blob_of(model, letter.id), letter.marked(mark), etag)
    if written is None:
        raise NotRedrivable("the letter is just being sent again")
    return mark, written


def _again(services: Services, old: Instance, job_id: str) -> ticket.Ticket:
    """The old job's ticket, for a new one that begins now and has as much time."""
    try:
        value = json.loads(old.input)
        value["version"] = ticket.VERSION
        request = value["request"]
        span = _time(request["deadline"]) - _time(request["created_at"])
        now = services.clock()
        request |= {
            "job_id": job_id,
            "created_at": format_time(now),
            "deadline": format_time(now + span),
        }
        return ticket.read(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except (ValueError, KeyError, TypeError):
        raise NotRedrivable("the job is none that this gateway could start again") from None


def _message(
    services: Services, letter: Letter, request: JobRequest, mark: Redrive
) -> ServiceBusMessage:
    """The producer's message. With the same id as another try of ours, so that it counts once."""
    now = services.clock()
    left = request.deadline - now
    if left <= timedelta():
        left = max(request.deadline - request.created_at, timedelta(seconds=1))
        request = replace(request, deadline=now + left)
    given = letter.document.get("properties")
    properties = given if isinstance(given, dict) else {}
    kept: dict[str | bytes, Any] = {
        name: properties[name]
        for name in (PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE)
        if isinstance(properties.get(name), str)
    }
    message = ServiceBusMessage(
        encode_request(request),
        content_type="application/json",
        # At most 128 characters, of which a producer may have used all.
        message_id=f"{request.job_id[:80]}.redrive.{mark.at}",
        correlation_id=request.job_id,
        application_properties=kept or None,
    )
    message.time_to_live = left
    return message


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
