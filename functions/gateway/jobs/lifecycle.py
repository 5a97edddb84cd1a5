"""Find a job, wait for its end, end it.

A job's outcome is recorded once in a blob, before anything else happens:

    outcomes/<job id>   {"status", "at", "reply"?, "error"?, "started_at"?}

The blob is created with `If-None-Match: *`, so the first outcome wins: replies, cancellations,
dead letters and expiry all compete by this rule. Each of these steps may be the last before the
process dies:

    record the outcome ──▶ wake its waiters ──▶ raise the event `reply`

After the first step every instance of the app answers with the outcome. The orchestration is not
the source of an answer, because an event can reach it too early: the Azure Storage provider
discards an event for an instance whose history has not been saved yet. If the event is lost, the
orchestration finds the outcome by itself: it checks for one from time to time.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from contract.names import EVENT_REPLY, outcome_blob
from gateway.clock import Clock
from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs.model import (
    LOST,
    JobOutcome,
    Record,
    final_record,
    initial_record_of,
    is_final,
    outcome_from_json,
    outcome_to_json,
    recorded_output,
)
from gateway.jobs.progress import ProgressStore
from gateway.storage.blobs import Blobs

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.5
LOOKS_A_SECOND: Final = 100
"""How often all waiters of a process together look, so that they leave room for the jobs."""

LOOKS_PER_FULL_LOOK: Final = 8
"""A waiter looks for the outcome alone, and every eighth time also at the orchestration."""

EXPIRY_GRACE: Final = timedelta(seconds=5)
"""How long after its deadline a job is left to its orchestration before a reader ends it."""

_log = logging.getLogger(__name__)


class OutcomeStore:
    """The recorded outcomes of jobs, one blob each."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def find(self, job_id: str) -> JobOutcome | None:
        """Return the recorded outcome, or None if the job has none yet. Raises Unavailable."""
        blob = await self._blobs.read(outcome_blob(job_id))
        return None if blob is None else outcome_from_json(json.loads(blob.data))

    async def record(self, job_id: str, outcome: JobOutcome) -> JobOutcome:
        """Record an outcome unless the job has one; return the one that is recorded.

        The result is `outcome` itself if this call recorded it. Raises Unavailable: then the
        outcome may or may not be recorded, and the call can be repeated.
        """
        data = json.dumps(
            outcome_to_json(outcome), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        if await self._blobs.create(outcome_blob(job_id), data.encode()) is not None:
            return outcome
        recorded = await self.find(job_id)
        if recorded is None:
            raise Unavailable("blobs", f"the outcome of {job_id} was deleted while it was read")
        return recorded


class Waiter:
    """One caller that waits for a job. Use it on the event loop that it was made on."""

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self._outcome: JobOutcome | None = None
        self._pause: asyncio.Future[None] | None = None

    @property
    def shortest_pause_seconds(self) -> float:
        """How long to pause so that all waiters together do not look too often."""
        return self._waiters.count / LOOKS_A_SECOND

    def notify(self, outcome: JobOutcome) -> None:
        """End the pause, or the next one, with this outcome."""
        self._outcome = outcome
        self._end_pause()

    async def pause(self, seconds: float) -> JobOutcome | None:
        """Wait for the outcome, at most this long; return it, or None."""
        if self._outcome is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.create_future()
            timer = loop.call_later(seconds, self._end_pause)
            try:
                await self._pause
            finally:
                timer.cancel()
                self._pause = None
        outcome, self._outcome = self._outcome, None
        return outcome

    def _end_pause(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


class Waiters:
    """The waiters of this process, by job."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self.count = 0

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[Waiter]:
        """Return a waiter that is notified of this job's outcome until the block is left."""
        waiter = Waiter(self)
        self._waiters.setdefault(job_id, set()).add(waiter)
        self.count += 1
        try:
            yield waiter
        finally:
            self.count -= 1
            waiters = self._waiters[job_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[job_id]

    def notify(self, job_id: str, outcome: JobOutcome) -> None:
        """Wake all waiters of this job."""
        for waiter in tuple(self._waiters.get(job_id, ())):
            waiter.notify(outcome)


class Jobs:
    """Jobs by their ids. Methods that need the orchestration take the durable client."""

    def __init__(
        self, outcomes: OutcomeStore, progress: ProgressStore, waiters: Waiters, clock: Clock
    ) -> None:
        self._outcomes = outcomes
        self._progress = progress
        self._waiters = waiters
        self._clock = clock

    async def find(self, durable: Durable, job_id: str) -> Record | None:
        """Return the job's record as of now, or None if the job does not exist.

        Raises Unavailable.
        """
        instance = await durable.status(job_id)
        return None if instance is None else await self.record_of(job_id, instance)

    async def record_of(self, job_id: str, instance: InstanceSnapshot) -> Record | None:
        """Return the record of the job with this orchestration; None if it is not a job's.

        A job is final once its outcome is recorded. If its orchestration ended without one, or did
        not end it at its deadline, this call records the outcome. Raises Unavailable.
        """
        if (output := recorded_output(instance)) is not None:
            return output
        initial = initial_record_of(instance)
        if initial is None:
            return None
        outcome = await self._outcomes.find(job_id)
        if outcome is None and (overdue := await self._overdue(job_id, initial, instance)):
            outcome = await self._outcomes.record(job_id, overdue)
        return initial if outcome is None else final_record(initial, outcome)

    async def wait(
        self,
        durable: Durable,
        job_id: str,
        initial: Record,
        waiter: Waiter,
        limit_seconds: float,
    ) -> Record | None:
        """Return the job's final record; None if the job does not end within the limit.

        The waiter is woken if this process records the outcome. Another instance of the app may
        record it too, so the blob is also read, less and less often. While the storage does not
        answer the wait goes on.

        Args:
            durable: The durable client of this invocation.
            job_id: The job to wait for.
            initial: The job's record when the wait began.
            waiter: A waiter for this job.
            limit_seconds: How long to wait at most.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        look_count = 0
        while (left := end - loop.time()) > 0:
            pause = max(pause_seconds, waiter.shortest_pause_seconds)
            outcome = await waiter.pause(min(pause, left))
            if outcome is not None:
                return final_record(initial, outcome)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
            look_count += 1
            try:
                if look_count % LOOKS_PER_FULL_LOOK:
                    outcome = await self._outcomes.find(job_id)
                    found = None if outcome is None else final_record(initial, outcome)
                else:
                    found = await self.find(durable, job_id)
            except Unavailable:
                continue
            if found is not None and is_final(found):
                return found
        return None

    async def finish(self, durable: Durable, job_id: str, outcome: JobOutcome) -> JobOutcome:
        """End a job with this outcome unless it has ended; return the outcome that it has.

        The result is `outcome` itself if this call ended the job. If the job had ended before,
        the event is raised once more, since the process that ended it may have died before that.

        Raises:
            Unavailable: the outcome may not be recorded; repeat the call.
            UnknownInstance: the job does not exist.
            FinalInstance: the orchestration had ended without a recorded outcome.
        """
        recorded = await self._outcomes.record(job_id, outcome)
        self._waiters.notify(job_id, recorded)
        raising = durable.raise_event(job_id, EVENT_REPLY, outcome_to_json(recorded))
        if recorded is outcome:
            await _raise_now_or_later(job_id, raising)
        else:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _raise_now_or_later(job_id, raising)
        return recorded

    async def _overdue(
        self, job_id: str, initial: Record, instance: InstanceSnapshot
    ) -> JobOutcome | None:
        """Return the outcome of a job whose orchestration ended or is late; None for any other."""
        match instance.runtime_status:
            case RuntimeStatus.TERMINATED | RuntimeStatus.CANCELED:
                return JobOutcome.cancelled(instance.updated_at)
            case RuntimeStatus.FAILED | RuntimeStatus.COMPLETED:
                return JobOutcome.failed(LOST, instance.updated_at)
        now = self._clock()
        if now < datetime.fromisoformat(initial["deadline"]) + EXPIRY_GRACE:
            return None
        return await outcome_at_deadline(self._progress, job_id, initial["model"], now)


async def outcome_at_deadline(
    progress: ProgressStore, job_id: str, model: str, now: datetime
) -> JobOutcome:
    """Return how a job ends at its deadline: expired, or cancelled if its worker was told to stop.

    Raises Unavailable.
    """
    started_at = await progress.stopping_since(job_id, model)
    return JobOutcome.expired(now) if started_at is None else JobOutcome.cancelled(now, started_at)


async def _raise_now_or_later(job_id: str, raising: Awaitable[None]) -> None:
    """Raise the event; if Durable does not answer, leave it to the orchestration's own checks."""
    try:
        await raising
    except Unavailable as error:
        _log.warning("job %s: its orchestration will find its outcome later: %s", job_id, error)
