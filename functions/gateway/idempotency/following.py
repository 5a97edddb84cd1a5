"""One job for all requests under one idempotency key, whoever dies in between.

The first request writes a claim, a blob that must not exist, and starts the job that it names. All
others find the claim and follow that job. Starting twice must not happen: while an instance runs,
Durable refuses a second one of its id, but one that has ended it would replace. So:

- Only who has just written the claim starts, and only while that is no longer ago than FRESH.
- Who finds a claim without an instance watches for WATCH, which is much longer. If there still is
  none and nobody else has written the claim since (If-Match), the writer died or was too slow to
  start. The watcher then writes the claim anew, and is now the one who starts: the same job id.

Nobody's wall clock decides: each measures its own time, and the ETag orders the writers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from uuid_utils import uuid7

from contract.messages import PayloadRef
from contract.names import input_blob
from gateway import problems
from gateway.durable import Durable, Instance
from gateway.errors import Unavailable
from gateway.idempotency.claim import CLAIMS, LIFETIME_HOURS, Claim, decode_claim
from gateway.jobs import record
from gateway.jobs.jobs import Jobs
from gateway.jobs.record import Record
from gateway.jobs.ticket import Ticket
from gateway.jobs.waiting import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from gateway.problems import Problem
from gateway.services import Services
from gateway.storage.blobs import Note

FRESH_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 4.0
_ROUNDS: Final = 5

Issue = Callable[[str], Awaitable[Ticket]]
Start = Callable[[Ticket], Awaitable[Record | None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a request: the job, and whether an earlier request had brought it."""

    job_id: str
    record: Record
    is_replay: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request under a key. `issue` writes the ticket of a job id, `start` starts and waits.

    `is_small` tells that issuing costs nothing, so that one may claim before looking for a claim.
    """

    services: Services
    durable: Durable
    blob: str
    fingerprint: str
    issue: Issue
    start: Start
    is_small: bool

    async def answer(self, wait_seconds: float) -> Answered:
        """The key's job; raises Problem where the key stands for another request."""
        is_blind = self.is_small
        for _ in range(_ROUNDS):
            note = None if is_blind else await self.services.blobs.read(self.blob)
            claim = decode_claim(note.data) if note else None
            if claim is not None and not self._is_expired(claim):
                if claim.fingerprint != self.fingerprint:
                    raise Problem(
                        problems.IDEMPOTENCY_MISMATCH,
                        "the Idempotency-Key was first sent with another request",
                    )
                instance = await self._watched(claim.job_id)
                if instance is not None:
                    return await self._followed(claim.job_id, instance, wait_seconds)
            else:
                claim = None
            try:
                if answered := await self._begun(claim, note):
                    return answered
            except Problem:
                # A new job is refused, but an earlier request may have been accepted.
                if not is_blind:
                    raise
            is_blind = False
        raise Unavailable("blobs", "the claim changes hands again and again")

    def _is_expired(self, claim: Claim) -> bool:
        return self.services.clock() - claim.created_at >= lifetime(self.services)

    async def _begun(self, claim: Claim | None, note: Note | None) -> Answered | None:
        """Claim, or take the claim over, and start; None where somebody else was faster."""
        job_id = claim.job_id if claim else str(uuid7())
        created_at = claim.created_at if claim else self.services.clock()
        issued = await self.issue(job_id)
        data = Claim(job_id, self.fingerprint, created_at).encode()
        loop, blobs = asyncio.get_running_loop(), self.services.blobs
        begun_at = loop.time()
        if note is None:
            etag = await blobs.create(self.blob, data)
        else:
            etag = await blobs.replace(self.blob, data, note.etag)
        if etag is None:
            if claim is None:
                await self._discard(issued)
            return None
        if loop.time() - begun_at > FRESH_SECONDS:
            return None
        final = await self.start(issued)
        return Answered(job_id, final or record.begun(issued), is_replay=claim is not None)

    async def _discard(self, issued: Ticket) -> None:
        """Delete the payload of a job that will not be."""
        if isinstance(issued.request().input, PayloadRef):
            # Left behind, it is a blob that nobody names.
            with contextlib.suppress(Unavailable):
                await self.services.blobs.delete(input_blob(issued.job_id))

    async def _watched(self, job_id: str) -> Instance | None:
        """The instance as soon as there is one; None if there is none for all the watch."""
        loop = asyncio.get_running_loop()
        end, pause_seconds = loop.time() + WATCH_SECONDS, FIRST_PAUSE_SECONDS
        with self.services.waiters.waiting(job_id) as waiter:
            while True:
                instance = await self.durable.status(job_id)
                left = end - loop.time()
                if instance is not None or left <= 0:
                    return instance
                await waiter.pause(min(max(pause_seconds, waiter.shortest_pause_seconds), left))
                pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    async def _followed(self, job_id: str, instance: Instance, wait_seconds: float) -> Answered:
        found = await Jobs(self.durable, self.services).record_of(job_id, instance)
        if found is None:
            raise Unavailable("durable", f"{job_id} is no job")
        answered = Answered(job_id, found, is_replay=True)
        return await waited(self.services, self.durable, answered, wait_seconds)


async def waited(
    services: Services, durable: Durable, answered: Answered, wait_seconds: float
) -> Answered:
    """The same as soon as the job has ended, or as it was when the wait is over."""
    if record.is_final(answered.record):
        return answered
    with services.waiters.waiting(answered.job_id) as waiter:
        jobs = Jobs(durable, services)
        ended = await jobs.wait(answered.job_id, answered.record, waiter, wait_seconds)
    return replace(answered, record=ended or answered.record)


def lifetime(services: Services) -> timedelta:
    """How long a claim holds; never longer than its job is kept, or it would be started again."""
    return timedelta(hours=min(LIFETIME_HOURS, services.settings.retention_hours))


async def delete_expired(services: Services) -> int:
    """Delete the claims that are over; returns how many."""
    before = services.clock() - lifetime(services)
    deleted = 0
    async for found in services.blobs.list(CLAIMS):
        if found.modified_at < before:
            # Unless somebody has claimed the key anew since the list was made.
            await services.blobs.delete(found.name, found.etag)
            deleted += 1
    return deleted
