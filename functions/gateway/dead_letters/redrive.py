"""Redrive a dead letter, which means: send the request of a dead-lettered message again.

A job whose message was dead-lettered has failed, and a job that has ended cannot change. Therefore
a redrive creates a new job with a new id. The new job has the input, tenant, webhook and time to
live of the old job.

A message that a producer sent directly to the queue has no job in the gateway. A redrive sends this
message to the same queue again, with a new message id. With the old id, Service Bus and Redis would
drop the message as a duplicate.

Each dead letter is redriven only once. Before a redrive sends anything, it writes a redrive mark
into the stored dead letter, and only one mark can be written. A request that could not send says so
in the mark, and one that has been trying for longer than IN_PROGRESS has probably died. In both
cases the next request completes the redrive, with the same ids.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from uuid_utils import uuid7

from contract.brokers import BrokerMessage
from contract.catalogue import ModelEntry
from contract.messages import JobRequest, PayloadRef, encode_request, format_time
from contract.names import PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE
from gateway.brokers.port import Queues
from gateway.clock import Clock
from gateway.dead_letters.store import (
    RedriveMark,
    StoredLetter,
    letter_blob_of,
    letter_queue,
    read_letter,
)
from gateway.durable import Durable, InstanceSnapshot
from gateway.errors import NotRedrivable, Unavailable, UnknownLetter
from gateway.jobs.lifecycle import Jobs, Waiters
from gateway.jobs.model import Ticket, is_final, read_ticket, write_ticket
from gateway.reply_tokens import ReplyTokens
from gateway.storage.blobs import Blobs
from gateway.telemetry import JobCounters

SETTLE_SECONDS: Final = 5.0
"""How many seconds to wait for the end of a job whose dead letter has just been stored."""

IN_PROGRESS: Final = timedelta(seconds=20)
"""A request that began to redrive this long ago has probably died."""


@dataclass(frozen=True, slots=True)
class Redriven:
    """The result of a redrive.

    `job_id` is the id of a new job, or that of the message that a producer sent to the queue. With
    `is_repeat`, an earlier redrive has sent the request, and this one has sent nothing.
    """

    job_id: str
    is_new_job: bool
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Redriver:
    """Redrives stored dead letters, each at most once."""

    blobs: Blobs
    queues: Queues
    jobs: Jobs
    tokens: ReplyTokens
    waiters: Waiters
    counters: JobCounters
    clock: Clock

    async def redrive(self, durable: Durable, model: ModelEntry, letter_id: str) -> Redriven:
        """Redrive a dead letter unless an earlier call has already redriven it.

        Raises UnknownLetter, NotRedrivable, or Unavailable if a service fails.
        """
        name = letter_blob_of(model, letter_id)
        stored = await self.blobs.read(name)
        if stored is None:
            raise UnknownLetter(letter_id)
        letter = read_letter(model, letter_id, stored.data)
        request = letter.request
        if request is None:
            raise NotRedrivable("the dead letter does not contain a readable request")
        has_job = request.reply_url is not None and self.tokens.is_issued(
            request.job_id, request.reply_url
        )
        if request.reply_url is not None and not has_job:
            raise NotRedrivable("the reply URL in the dead letter was not issued by this gateway")
        if letter.redrive is not None and letter.redrive.is_done:
            return Redriven(letter.redrive.job_id, has_job, is_repeat=True)
        old = await self._wait_until_ended(durable, request.job_id) if has_job else None
        await self._check_input(request)
        mark, etag = await self._mark(name, letter, stored.etag, has_job)
        try:
            if old is not None:
                if await durable.status(mark.job_id) is None:
                    ticket = _copy_ticket(old, request, mark.job_id, self.clock())
                    await durable.start(ticket.job_id, ticket.text)
                    self.counters.record_accepted(ticket.model)
            else:
                message = _message(letter, request, mark, self.clock())
                await self.queues.send(letter_queue(model, letter_id), message)
        except Unavailable:
            failed = replace(mark, tried_at=None)
            await self.blobs.replace(name, letter.with_mark(failed), etag)
            raise
        done = replace(mark, is_done=True)
        await self.blobs.replace(name, letter.with_mark(done), etag)
        return Redriven(mark.job_id, has_job, is_repeat=False)

    async def _wait_until_ended(self, durable: Durable, job_id: str) -> InstanceSnapshot:
        """Return the orchestration of the job, which must end within SETTLE_SECONDS."""
        with self.waiters.waiting(job_id) as ended:
            instance = await self.jobs.snapshot(durable, job_id)
            found = await self.jobs.record_of(job_id, instance) if instance else None
            if instance is None or found is None:
                raise NotRedrivable("the job no longer exists, because its retention has ended")
            if not is_final(found):
                found = await self.jobs.wait(durable, job_id, found, ended, SETTLE_SECONDS)
        if found is None:
            raise NotRedrivable("the job has not ended yet; repeat the request in a few seconds")
        return instance

    async def _check_input(self, request: JobRequest) -> None:
        for payload in request.all_inputs:
            if isinstance(payload, PayloadRef) and await self.blobs.look(payload.blob, 1) is None:
                raise NotRedrivable(
                    "the job's input no longer exists, because its retention has ended"
                )

    async def _mark(
        self, name: str, letter: StoredLetter, etag: str, has_job: bool
    ) -> tuple[RedriveMark, str]:
        """Write the redrive mark of this request, and return it and the blob's new ETag.

        Raises NotRedrivable if another request is redriving the dead letter.
        """
        now = self.clock()
        if (mark := letter.redrive) is None:
            job_id = str(uuid7()) if has_job else letter.job_id
            mark = RedriveMark(job_id, format_time(now), is_done=False, tried_at=format_time(now))
        elif mark.tried_at is None or now - _parse_time(mark.tried_at) >= IN_PROGRESS:
            mark = replace(mark, tried_at=format_time(now))
        else:
            mark = None
        written = await self.blobs.replace(name, letter.with_mark(mark), etag) if mark else None
        if mark is None or written is None:
            raise NotRedrivable(
                "another request is redriving this dead letter; repeat the request later"
            )
        return mark, written


def _copy_ticket(old: InstanceSnapshot, request: JobRequest, job_id: str, now: datetime) -> Ticket:
    """Return the orchestration input of a new job that repeats the old job."""
    try:
        ticket = read_ticket(old.input)
        span = _parse_time(ticket.deadline) - _parse_time(ticket.created_at)
        new = replace(
            request, job_id=job_id, created_at=now, deadline=now + span, reply_to=None, batch=None
        )
        return write_ticket(
            new,
            ticket.traceparent,
            ticket.tenant,
            ticket.webhook_url,
            ticket.priority,
            label=ticket.label,
            metadata=ticket.metadata,
            is_background=ticket.is_background,
        )
    except (ValueError, KeyError, TypeError):
        raise NotRedrivable(
            "this job cannot be repeated, because the input of its orchestration is unreadable"
        ) from None


def _message(
    letter: StoredLetter, request: JobRequest, mark: RedriveMark, now: datetime
) -> BrokerMessage:
    """Return a new message that contains the producer's request.

    Its id has the time at which the redrive began, so that a broker that detects duplicates drops a
    second message if a redrive is interrupted and completed later.
    """
    left = request.deadline - now
    if left <= timedelta():
        left = max(request.deadline - request.created_at, timedelta(seconds=1))
        request = replace(request, deadline=now + left)
    given = letter.document.get("properties")
    properties = given if isinstance(given, dict) else {}
    kept: dict[str, str] = {
        name: properties[name]
        for name in (PROPERTY_TRACEPARENT, PROPERTY_TRACESTATE)
        if isinstance(properties.get(name), str)
    }
    return BrokerMessage(
        encode_request(request),
        # A message id has at most 128 characters, and a producer may have used all of them.
        message_id=f"{request.job_id[:80]}.redrive.{mark.at}",
        correlation_id=request.job_id,
        properties=kept,
        time_to_live=left,
    )


def _parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
