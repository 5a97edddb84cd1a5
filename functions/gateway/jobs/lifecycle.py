"""Find a job, wait for its end, and end it.

When a job ends, its outcome is first recorded in a blob:

    outcomes/<job id>   {"status", "at", "reply"?, "error"?, "started_at"?}

The blob is created with `If-None-Match: *`. Therefore only the first outcome of a job is recorded,
whether it is a reply, a cancellation, a dead letter or the expiry. The process may die after each
of these steps:

    record the outcome ──▶ wake its waiters ──▶ raise the event `reply`

After the first step every instance of the app shows the outcome to callers. The instances do not
read the outcome from the orchestration, because an event can be lost: the Azure Storage provider
discards an event for an orchestration whose history has not been saved yet. In this case the
orchestration finds the recorded outcome by a check that it repeats regularly.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
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

OWN_ENDS: Final = 20
"""After so many jobs in succession whose end this process recorded, waiters read less often."""

LOOKS_A_SECOND: Final = 100
"""The largest number of looks per second of all waiters in a process together."""

LOOKS_PER_FULL_LOOK: Final = 8
"""A waiter reads only the outcome, but at every eighth look also the orchestration."""

# A job's message is sent before its orchestration is started. Therefore a fast reply can arrive
# before the start has ended.
_START_PAUSES_SECONDS: Final = (0.02, 0.1, 0.4)

EXPIRY_GRACE: Final = timedelta(seconds=5)
"""How long after a job's deadline a reader waits for the orchestration to end the job."""

_log = logging.getLogger(__name__)


class OutcomeStore:
    """Stores the outcome of each job in a blob of its own."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def find(self, job_id: str) -> JobOutcome | None:
        """Return the job's recorded outcome; None if none is recorded. Raises Unavailable."""
        blob = await self._blobs.read(outcome_blob(job_id))
        return None if blob is None else outcome_from_json(json.loads(blob.data))

    async def record(self, job_id: str, outcome: JobOutcome) -> JobOutcome:
        """Record an outcome unless the job already has an outcome; return the recorded outcome.

        The result is the object `outcome` itself if this call recorded it. If the call raises
        Unavailable, the outcome may or may not be recorded, and the call can be repeated.
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
    """One caller that waits for a job.

    A waiter must be used only on the event loop on which it was created.
    """

    def __init__(self, waiters: "Waiters") -> None:
        self._waiters = waiters
        self._outcome: JobOutcome | None = None
        self._pause: asyncio.Future[None] | None = None

    @property
    def shortest_pause_seconds(self) -> float:
        """The shortest pause in seconds between two reads of the outcome by this waiter.

        With it, all waiters together read at most LOOKS_A_SECOND times a second.
        """
        return self._waiters.count / LOOKS_A_SECOND

    @property
    def first_pause_seconds(self) -> float:
        """The pause in seconds before the first read of the outcome by this waiter.

        It is short, unless this process itself recorded the outcomes of the last OWN_ENDS jobs.
        Then the app probably has only this instance, and reading would cost time for nothing.
        """
        is_only_instance = self._waiters.own_ends >= OWN_ENDS
        return LONGEST_PAUSE_SECONDS if is_only_instance else FIRST_PAUSE_SECONDS

    def record_end(self, *, is_own: bool) -> None:
        """Record whether this process recorded the outcome that ended the wait."""
        self._waiters.own_ends = self._waiters.own_ends + 1 if is_own else 0

    def notify(self, outcome: JobOutcome) -> None:
        """End the current pause with this outcome.

        If there is no current pause, the next pause ends at once with this outcome.
        """
        self._outcome = outcome
        self._end_pause()

    async def pause(self, seconds: float) -> JobOutcome | None:
        """Wait up to this many seconds; return the outcome, or None if it did not arrive."""
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
    """All waiters of this process, grouped by job."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self.count = 0
        self.own_ends = 0
        """How many waits in succession ended with an outcome that this process recorded."""

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[Waiter]:
        """Yield a waiter, which is notified of this job's outcome during the `with` block."""
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
        """Wake all waiters of this job with its outcome."""
        for waiter in tuple(self._waiters.get(job_id, ())):
            waiter.notify(outcome)


class Jobs:
    """Finds jobs by their ids, waits for their end, and ends them."""

    def __init__(
        self, outcomes: OutcomeStore, progress: ProgressStore, waiters: Waiters, clock: Clock
    ) -> None:
        self._outcomes = outcomes
        self._progress = progress
        self._waiters = waiters
        self._clock = clock

    async def find(self, durable: Durable, job_id: str) -> Record | None:
        """Return the job's current record; None if the job does not exist. Raises Unavailable."""
        instance = await durable.status(job_id)
        return None if instance is None else await self.record_of(job_id, instance)

    async def record_of(self, job_id: str, instance: InstanceSnapshot) -> Record | None:
        """Return the record of the job that this orchestration runs; None if it does not run a job.

        A job is final when its outcome is recorded. If the orchestration ended without an outcome,
        or did not end the job at its deadline, this call records the outcome. Raises Unavailable.
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
        """Wait for the end of a job; return its final record, or None if it does not end in time.

        If this process records the outcome, the waiter is woken. Another instance of the app may
        record the outcome too. Therefore this method also reads the blob, after pauses that become
        longer. If the storage does not respond, the wait continues.

        Args:
            durable: The durable client of this invocation.
            job_id: The job to wait for.
            initial: The job's record at the beginning of the wait.
            waiter: A waiter for this job.
            limit_seconds: The longest wait in seconds.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_seconds
        pause_seconds = waiter.first_pause_seconds
        look_count = 0
        while (left := end - loop.time()) > 0:
            pause = max(pause_seconds, waiter.shortest_pause_seconds)
            outcome = await waiter.pause(min(pause, left))
            if outcome is not None:
                waiter.record_end(is_own=True)
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
                waiter.record_end(is_own=False)
                return found
        return None

    async def finish(self, durable: Durable, job_id: str, outcome: JobOutcome) -> JobOutcome:
        """End a job with this outcome unless it has already ended; return the recorded outcome.

        The result is the object `outcome` itself if this call ended the job. If the job had ended
        before, the event is raised again, because the process that recorded the outcome may have
        died before it raised the event.

        Raises:
            Unavailable: It is unknown whether the outcome is recorded. Repeat the call.
            UnknownInstance: The job does not exist.
            FinalInstance: The orchestration had ended without a recorded outcome.
        """
        recorded = await self._outcomes.record(job_id, outcome)
        self._waiters.notify(job_id, recorded)
        if recorded is outcome:
            await _raise_event(durable, job_id, recorded, _START_PAUSES_SECONDS)
        else:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _raise_event(durable, job_id, recorded)
        return recorded

    async def _overdue(
        self, job_id: str, initial: Record, instance: InstanceSnapshot
    ) -> JobOutcome | None:
        """Return the outcome of a job whose orchestration should have recorded an outcome.

        Returns None if the orchestration still runs and the job's deadline has not passed.
        """
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
    """Return the outcome of a job whose deadline has passed.

    The job is cancelled if its worker was ordered to stop; otherwise it has expired. Raises
    Unavailable.
    """
    started_at = await progress.stopping_since(job_id, model)
    return JobOutcome.expired(now) if started_at is None else JobOutcome.cancelled(now, started_at)


async def _raise_event(
    durable: Durable, job_id: str, outcome: JobOutcome, pauses_seconds: Sequence[float] = ()
) -> None:
    """Raise the event `reply`; only log a warning if Durable Functions does not respond.

    Without the event, the orchestration finds the recorded outcome by its own checks.

    Args:
        durable: The durable client of this invocation.
        job_id: The job that has ended.
        outcome: The recorded outcome of the job.
        pauses_seconds: The pauses after which the call is repeated if there is no orchestration.

    Raises:
        UnknownInstance: There is no orchestration after all pauses.
        FinalInstance: The orchestration has ended.
    """
    for pause_seconds in (*pauses_seconds, None):
        try:
            await durable.raise_event(job_id, EVENT_REPLY, outcome_to_json(outcome))
        except UnknownInstance:
            if pause_seconds is None:
                raise
            await asyncio.sleep(pause_seconds)
        except Unavailable as error:
            _log.warning(
                "job %s: the event failed, so the orchestration will find the outcome later: %s",
                job_id,
                error,
            )
            return
        else:
            return
