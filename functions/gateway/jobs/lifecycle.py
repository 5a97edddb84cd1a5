"""Find a job, wait for its end, and end it.

The outcome of a job is a reply, a cancellation, a dead letter or the expiry. It is first recorded
in the blob `outcomes/<job id>`, which is created with `If-None-Match: *`, so only the first outcome
is recorded. The process may die after each of these steps:

    record the outcome ──▶ wake the waiting requests ──▶ raise the event `reply`

The requests wait in this process or in another instance, which the log of ends tells (see `ends`).
After the first step every instance of the app shows the outcome to callers. The instances do not
read the outcome from the orchestration, because an event can be lost. For example, the Azure
Storage provider discards an event for an orchestration whose history has not been saved yet. The
orchestration also reads the blob regularly, so a lost event only delays the orchestration.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from contract.messages import JobError
from contract.names import EVENT_REPLY, OUTCOMES
from gateway.clock import Clock
from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs.ends import EndsLog, JobEnd
from gateway.jobs.model import (
    LOST,
    JobOutcome,
    Record,
    final_record,
    first_record_of,
    is_final,
    marks_of,
    outcome_from_json,
    outcome_to_json,
    recorded_output,
)
from gateway.jobs.progress import ProgressStore
from gateway.storage.blobs import Blobs
from gateway.telemetry import JobCounters

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 8.0
"""The pauses of a waiting request between its own looks for an outcome that the log has lost."""

LAST_READ_SECONDS: Final = 1.0
"""How long a request waits at least for a look, even if its own wait has ended."""

LOOKS_A_SECOND: Final = 2
"""The maximum number of looks per second by all waiters of a process together."""

FOLLOW_SECONDS: Final = 0.02
LONGEST_FOLLOW_SECONDS: Final = 0.1
"""The shortest and the longest pause between two reads of the log of ends while requests wait.

The pause is FOLLOW_SHARE times as long as the last read, so a busy machine reads less often. It is
always the longest while the log has no new lines, as with one instance.
"""

FOLLOW_SHARE: Final = 4

NEW_WAIT_SECONDS: Final = 0.5
"""While any request has waited for less than this, the pause may be half of FOLLOW_SECONDS.

This holds only if the log has lines, as with several instances.
"""

UNUSED_SECONDS: Final = 0.03
"""How long a request waits at least before a read of the log of ends if the log has no lines."""

AWAY_SECONDS: Final = 0.5
"""The pause after a failed read of the log."""

# A timer of the event loop may fire this much too early.
_TIMER_SECONDS: Final = 0.001

# A job's message is sent before its orchestration is started. Therefore a fast reply can arrive
# before the start has ended.
_START_PAUSES_SECONDS: Final = (0.02, 0.1, 0.4)

EXPIRY_GRACE: Final = timedelta(seconds=5)
"""How long after a job's deadline only the orchestration may record that the job has expired."""

caller_gone: ContextVar[Callable[[], asyncio.Future[None]] | None] = ContextVar(
    "caller_gone", default=None
)
"""Returns a future that is done when the caller of the current request has disconnected.

It is a context variable, because all waits of a request end then, in whatever function they are.
"""

_log = logging.getLogger(__name__)


def when_caller_gone() -> asyncio.Future[None]:
    """Return a future that is done when the caller of the current request has disconnected."""
    watch = caller_gone.get()
    return asyncio.get_running_loop().create_future() if watch is None else watch()


def outcome_blob(job_id: str) -> str:
    """Return the name of the blob that contains a job's outcome."""
    return f"{OUTCOMES}{job_id}"


class OutcomeStore:
    """Stores the outcomes of jobs, each outcome in a blob of its own."""

    def __init__(self, blobs: Blobs, counters: JobCounters) -> None:
        self._blobs = blobs
        self._counters = counters

    async def find(self, job_id: str) -> JobOutcome | None:
        """Return the job's recorded outcome. Raises Unavailable if the blob storage fails."""
        blob = await self._blobs.read(outcome_blob(job_id))
        return None if blob is None else outcome_from_json(json.loads(blob.data))

    async def record(self, job_id: str, outcome: JobOutcome, model: str | None) -> JobOutcome:
        """Record the outcome unless the job has an outcome; return the recorded outcome.

        If this call records the outcome, it returns the object `outcome` itself, and counts the end
        of the job in the metrics of `model` unless this is None. If it raises Unavailable, the
        outcome may have been recorded, and the call can be repeated.
        """
        data = json.dumps(
            outcome_to_json(outcome), ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        if await self._blobs.create(outcome_blob(job_id), data.encode()) is not None:
            if model is not None:
                self.count_end(model, outcome)
            return outcome
        recorded = await self.find(job_id)
        if recorded is None:
            raise Unavailable(
                "blobs", f"the outcome of job {job_id} was deleted before it could be read"
            )
        return recorded

    def count_end(self, model: str, outcome: JobOutcome) -> None:
        """Count the end of a job in the metrics of its model."""
        error, durations, stream = outcome.error, None, None
        if (reply := outcome.reply) is not None:
            if isinstance(reply.outcome, JobError):
                error = reply.outcome
            timing = reply.timing
            durations = (timing.queued_ms / 1000, timing.inference_ms / 1000)
            marks = marks_of(outcome) if "first_chunk_ms" in (timing.delivery or {}) else None
            if marks is not None and marks.first_chunk_ms is not None:
                seconds = (timing.queued_ms + marks.first_chunk_ms) / 1000
                stream = (seconds, marks.chunks or 0)
        code = None if error is None else error.code
        self._counters.record_end(model, outcome.status, code, durations, stream)


@dataclass(slots=True)
class _Waiting:
    """The requests that wait for one job, and since when, on the clock of the event loop."""

    since: float
    futures: set[asyncio.Future[JobOutcome]] = field(default_factory=set)


class Waiters:
    """The HTTP requests of this process that wait for the outcomes of their jobs.

    Outcomes that other instances record come from the log of ends. While any request waits, one
    task reads it, whatever the number of requests.
    """

    def __init__(self, log: EndsLog, outcomes: OutcomeStore) -> None:
        self._log = log
        self._outcomes = outcomes
        self._waiting: dict[str, _Waiting] = {}
        self._reader: asyncio.Task[None] | None = None
        self.count = 0

    @property
    def shortest_pause_seconds(self) -> float:
        """The minimum time between two looks by one waiter, which keeps to LOOKS_A_SECOND."""
        return self.count / LOOKS_A_SECOND

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[asyncio.Future[JobOutcome]]:
        """Yield a future that gets the job's outcome if it is recorded in the `with` block."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[JobOutcome] = loop.create_future()
        waiting = self._waiting.setdefault(job_id, _Waiting(loop.time()))
        waiting.futures.add(ended)
        self.count += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._follow())
        try:
            yield ended
        finally:
            self.count -= 1
            waiting.futures.remove(ended)
            if not waiting.futures:
                del self._waiting[job_id]

    def notify(self, job_id: str, outcome: JobOutcome) -> bool:
        """Pass an outcome to the requests that wait for this job; return whether there are any."""
        waiting = self._waiting.get(job_id)
        for ended in waiting.futures if waiting else ():
            if not ended.done():
                ended.set_result(outcome)
        return waiting is not None

    async def announce(self, job_id: str, outcome: JobOutcome) -> None:
        """Pass a recorded outcome to the requests that wait for it, in any instance of the app."""
        if self.notify(job_id, outcome):
            # The event loop answers the waiting caller before this task continues.
            await asyncio.sleep(0)
            return
        try:
            await self._log.append(job_id, outcome)
        except Unavailable as error:
            _log.warning(
                "job %s: its end could not be written to the log of ends (%s); a request that "
                "waits for it in another instance is answered later",
                *(job_id, error),
            )

    async def _follow(self) -> None:
        """Read the log of ends while requests wait."""
        loop, pause_seconds = asyncio.get_running_loop(), FOLLOW_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            if not self._waiting:
                return
            # The dict has the order of insertion. Most jobs of an only instance end before a read.
            oldest = next(iter(self._waiting.values()))
            begun_at = loop.time()
            first_seconds = FOLLOW_SECONDS / 2 if self._log.is_used else UNUSED_SECONDS
            if begun_at - oldest.since < first_seconds:
                continue
            try:
                ends = await self._log.read(self._waiting)
                await asyncio.gather(*(self._pass(end) for end in ends))
            except Unavailable as error:
                _log.debug("the log of ends could not be read: %s", error)
                await asyncio.sleep(AWAY_SECONDS)
            if not self._log.is_used:
                pause_seconds = LONGEST_FOLLOW_SECONDS
                continue
            newest = next(reversed(self._waiting.values()), oldest)
            is_new = loop.time() - newest.since < NEW_WAIT_SECONDS
            shortest_seconds = FOLLOW_SECONDS / 2 if is_new else FOLLOW_SECONDS
            used_seconds = FOLLOW_SHARE * (loop.time() - begun_at)
            pause_seconds = min(max(used_seconds, shortest_seconds), LONGEST_FOLLOW_SECONDS)

    async def _pass(self, end: JobEnd) -> None:
        outcome = end.outcome or await self._outcomes.find(end.job_id)
        if outcome is not None:
            self.notify(end.job_id, outcome)


class OutcomeTaker(Protocol):
    """A place that may record the outcome of a job instead of the outcome's blob."""

    async def take(self, job_id: str, outcome: JobOutcome) -> JobOutcome | None:
        """Record the outcome unless the job has an outcome; return the recorded outcome.

        Returns None if the caller must record the outcome in the blob, and raise the event.
        """


class EndRecorder(Protocol):
    """Counts the ends of jobs for the shares of their tenants."""

    def record_end(self, model: str, job_id: str, owner: str) -> None:
        """Record the end of a job without a reply. `owner` is empty if its tenant is unknown."""


def is_line(job_id: str) -> bool:
    """Return whether a job is a line of a batch, whose ids are UUIDs of version 8."""
    return job_id[14:15] == "8"


class Lines(Protocol):
    """The jobs that have no orchestration, because they are lines of a batch."""

    async def snapshot(self, job_id: str) -> InstanceSnapshot | None:
        """Return the orchestration that the job would have; None if the job does not exist."""
        ...

    async def finish(
        self, durable: Durable, job_id: str, outcome: JobOutcome, model: str | None
    ) -> JobOutcome:
        """End the job as `Jobs.finish` does, with the same errors."""
        ...


class Jobs:
    """Finds jobs by their ids, waits until they end, and ends them."""

    def __init__(  # noqa: PLR0913, PLR0917 - where the parts of a job are
        self,
        outcomes: OutcomeStore,
        progress: ProgressStore,
        waiters: Waiters,
        taker: OutcomeTaker,
        lines: Lines,
        clock: Clock,
    ) -> None:
        self._outcomes = outcomes
        self._progress = progress
        self._waiters = waiters
        self._taker = taker
        self._lines = lines
        self._clock = clock
        self._looks: set[asyncio.Task[Record | None]] = set()

    async def find(self, durable: Durable, job_id: str) -> Record | None:
        """Return the job's current record; None if the job does not exist.

        Raises Unavailable if Durable Functions or the blob storage fails.
        """
        instance = await self.snapshot(durable, job_id)
        return None if instance is None else await self.record_of(job_id, instance)

    async def snapshot(self, durable: Durable, job_id: str) -> InstanceSnapshot | None:
        """Return the job's orchestration, or that which a line of a batch would have.

        Returns None if there is none. Raises Unavailable if a service fails.
        """
        if is_line(job_id):
            return await self._lines.snapshot(job_id)
        return await durable.status(job_id)

    async def record_of(self, job_id: str, instance: InstanceSnapshot) -> Record | None:
        """Return the record of an orchestration's job; None if the orchestration runs no job.

        If the orchestration has ended without an outcome, or still runs EXPIRY_GRACE after the
        job's deadline, this method ends the job. Raises Unavailable if the blob storage fails.
        """
        if (output := recorded_output(instance)) is not None:
            return output
        initial = first_record_of(instance)
        if initial is None or is_final(initial) or is_line(job_id):
            return initial
        outcome = await self._outcomes.find(job_id)
        if outcome is None and (overdue := await self._overdue(job_id, initial, instance)):
            outcome = await self._outcomes.record(job_id, overdue, initial["model"])
        return initial if outcome is None else final_record(initial, outcome)

    async def wait(
        self,
        durable: Durable,
        job_id: str,
        initial: Record,
        ended: asyncio.Future[JobOutcome],
        limit_seconds: float,
    ) -> Record | None:
        """Wait until a job ends; return its final record, or None after `limit_seconds`.

        `initial` is the record of the job before its end, and `ended` is from `Waiters.waiting`.
        The log of ends may have lost a line, and an operator may terminate the orchestration, so
        this method also looks for the end itself, rarely. If the storage does not respond, the
        wait continues. It ends, as after `limit_seconds`, when `caller_gone` says that the caller
        has disconnected.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + limit_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        gone = when_caller_gone()
        while (left := ends_at - loop.time()) > _TIMER_SECONDS and not gone.done():
            pause = max(pause_seconds, self._waiters.shortest_pause_seconds)
            either: list[asyncio.Future[Any]] = [ended, gone]
            await asyncio.wait(
                either, timeout=min(pause, left), return_when=asyncio.FIRST_COMPLETED
            )
            if not ended.done() and not gone.done():
                pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)
                looking = asyncio.create_task(self._look(durable, job_id))
                # If the outcome arrives first, the read continues, so that its connection is
                # reused. The event loop has only a weak reference to a task.
                self._looks.add(looking)
                looking.add_done_callback(self._looks.discard)
                await asyncio.wait(
                    [*either, looking],
                    timeout=max(LAST_READ_SECONDS, ends_at - loop.time()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not ended.done() and looking.done() and (found := looking.result()) is not None:
                    return found
            if ended.done():
                return final_record(initial, ended.result())
        return None

    async def _look(self, durable: Durable, job_id: str) -> Record | None:
        """Return the final record of a job; None if it has not ended or a service fails."""
        with contextlib.suppress(Unavailable):
            found = await self.find(durable, job_id)
            return found if found is not None and is_final(found) else None
        return None

    async def catch_up(
        self, durable: Durable, job_id: str, ended: asyncio.Future[JobOutcome]
    ) -> JobOutcome | None:
        """Return an outcome that was recorded before the orchestration was started.

        Another instance raised no event for it, because the start was still delayed. Therefore
        this method raises the event.
        """
        try:
            outcome = ended.result() if ended.done() else await self._outcomes.find(job_id)
        except Unavailable:
            return None
        if outcome is not None:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _raise_event(durable, job_id, outcome)
        return outcome

    async def finish(
        self,
        durable: Durable,
        job_id: str,
        outcome: JobOutcome,
        model: str | None,
        starts_after: datetime | None = None,
    ) -> JobOutcome:
        """End a job with this outcome unless the job has ended; return the recorded outcome.

        If this call ends the job, it returns the object `outcome` itself. Otherwise it announces
        the recorded outcome again, because the process that recorded it may have died before that.
        The end is counted in the metrics of `model` unless this is None.

        Until `starts_after`, the request that submitted the job delays the orchestration's start,
        and starts it with the outcome. Then no event is raised.

        Raises:
            Unavailable: The outcome may have been recorded. The caller must repeat the call.
            UnknownInstance: The job does not exist.
            FinalInstance: The orchestration had ended before this call, and no blob had an outcome.
        """
        if is_line(job_id):
            return await self._lines.finish(durable, job_id, outcome, model)
        if (taken := await self._taker.take(job_id, outcome)) is not None:
            return taken
        recorded = await self._outcomes.record(job_id, outcome, model)
        await self._waiters.announce(job_id, recorded)
        if starts_after is not None and self._clock() < starts_after:
            return recorded
        if recorded is outcome:
            await _raise_event(durable, job_id, recorded, _START_PAUSES_SECONDS)
        else:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _raise_event(durable, job_id, recorded)
        return recorded

    async def _overdue(
        self, job_id: str, initial: Record, instance: InstanceSnapshot
    ) -> JobOutcome | None:
        """Return the outcome to record if the orchestration has ended or is EXPIRY_GRACE late."""
        match instance.runtime_status:
            case RuntimeStatus.TERMINATED | RuntimeStatus.CANCELED:
                return JobOutcome.cancelled(instance.updated_at)
            case RuntimeStatus.FAILED | RuntimeStatus.COMPLETED:
                return JobOutcome.failed(LOST, instance.updated_at)
        now = self._clock()
        if now < datetime.fromisoformat(initial["deadline"]) + EXPIRY_GRACE:
            return None
        return await self._progress.outcome_at_deadline(job_id, initial["model"], now)


async def _raise_event(
    durable: Durable, job_id: str, outcome: JobOutcome, pauses_seconds: Sequence[float] = ()
) -> None:
    """Raise the event `reply`; only log a warning if Durable Functions does not respond.

    Then the orchestration finds the recorded outcome when its timer fires. Raises UnknownInstance
    if the orchestration does not exist, even after all `pauses_seconds`, or FinalInstance if it has
    ended.
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
                'job %s: the external event "reply" could not be raised (%s); the orchestration '
                "will read the recorded outcome",
                job_id,
                error,
            )
            return
        else:
            return
