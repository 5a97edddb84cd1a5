"""Find a job, wait for its end, and end it.

When a job ends, its outcome is first recorded in a blob:

    outcomes/<job id>   {"status", "at", "reply"?, "error"?, "started_at"?}

The outcome is a reply, a cancellation, a dead letter or the expiry. The blob is created with
`If-None-Match: *`, so only the first outcome of a job is recorded. The process may die after each
of these steps:

    record the outcome ──▶ wake the waiting requests ──▶ raise the event `reply`

After the first step every instance of the app shows the outcome to callers. The instances do not
read the outcome from the orchestration, because an event can be lost. For example, the Azure
Storage provider discards an event for an orchestration whose history has not been saved yet. The
orchestration also reads the outcome from the blob regularly, so a lost event only delays the
orchestration.

A job that ends before its orchestration is started needs neither the blob nor the event, if the
request that waits for the job is in this process. The request starts the orchestration with the
outcome, and the orchestration's input then stores the outcome:

    pass the outcome to the request ──▶ start the orchestration with it ──▶ accept the reply

If the start fails or takes too long, the outcome is recorded in the blob.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from contract.errors import PayloadCorrupt
from contract.messages import (
    Fields,
    InlineBytes,
    JobError,
    PayloadRef,
    payload_from_json,
    payload_to_json,
)
from contract.names import EVENT_REPLY, outcome_blob
from gateway.clock import Clock
from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import FinalInstance, MissingPayload, Unavailable, UnknownInstance
from gateway.jobs.model import (
    EXPIRED_WHILE_RUNNING,
    LOST,
    JobOutcome,
    Record,
    final_record,
    first_record_of,
    is_final,
    is_text,
    outcome_from_json,
    outcome_to_json,
    recorded_output,
)
from gateway.jobs.progress import ProgressStore
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadStore
from gateway.telemetry import JobCounters

TEXT_LIMIT_BYTES: Final = 64 * 1024
"""A text result with more bytes than this is not part of the job."""

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.5

LAST_READ_SECONDS: Final = 1.0
"""The minimum time in seconds that a waiter waits for a read of the outcome that has begun.

The read may end after the time for which the request waits.
"""

OWN_ENDS: Final = 20
"""How many outcomes in succession a process must record to count as the only process of the app.

Only outcomes for which a request of this process waited are counted. If the process counts as the
only process, its requests read the outcome later, see `Waiter.first_pause_seconds`.
"""

START_DELAY_SECONDS: Final = 1.0
"""How long, at most, a request waits for its job's outcome before it starts the orchestration."""

LONGEST_START_SECONDS: Final = 2.0
"""How long a reply waits for the start of the orchestration with its outcome.

After this time, the outcome is also recorded in the blob.
"""

PAST_STARTS: Final = 1000
"""How many orchestrations that were started with an outcome a process remembers.

Because of this, a second reply is not accepted while such an orchestration has not ended.
"""

LOOKS_A_SECOND: Final = 100
"""The maximum number of reads of outcomes per second by all waiters of a process together."""

LOOKS_PER_FULL_LOOK: Final = 8
"""Of this many reads by a waiter, one also reads the state of the job's orchestration.

The other reads read only the job's outcome.
"""

# A job's message is sent before its orchestration is started. Therefore a fast reply can arrive
# before the start has ended.
_START_PAUSES_SECONDS: Final = (0.02, 0.1, 0.4)

EXPIRY_GRACE: Final = timedelta(seconds=5)
"""How long after a job's deadline only the orchestration may record that the job has expired.

After this time, any process that reads the job may record that the job has expired.
"""

_log = logging.getLogger(__name__)


class OutcomeStore:
    """Stores the outcomes of jobs, each outcome in a blob of its own."""

    def __init__(self, blobs: Blobs, counters: JobCounters) -> None:
        self._blobs = blobs
        self._counters = counters

    async def find(self, job_id: str) -> JobOutcome | None:
        """Return the job's outcome; None if no outcome is recorded.

        Raises Unavailable if the blob storage fails.
        """
        blob = await self._blobs.read(outcome_blob(job_id))
        return None if blob is None else outcome_from_json(json.loads(blob.data))

    async def record(self, job_id: str, outcome: JobOutcome, model: str | None) -> JobOutcome:
        """Record the outcome unless the job has an outcome; return the recorded outcome.

        If this call records the outcome and `model` is not None, the end of the job is counted in
        the metrics of this model.

        If this call records the outcome, it returns the object `outcome` itself. If the call raises
        Unavailable, it is unknown whether the outcome was recorded, and the call can be repeated.
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
        error, durations = outcome.error, None
        if (reply := outcome.reply) is not None:
            if isinstance(reply.outcome, JobError):
                error = reply.outcome
            durations = (reply.timing.queued_ms / 1000, reply.timing.inference_ms / 1000)
        code = None if error is None else error.code
        self._counters.record_end(model, outcome.status, code, durations)


class Waiter:
    """One HTTP request that waits for the outcome of its job.

    A waiter must be used only on the event loop on which it was created.
    """

    def __init__(self, waiters: "Waiters", job_id: str) -> None:
        self.job_id = job_id
        self._waiters = waiters
        self._outcome: JobOutcome | None = None
        self._pause: asyncio.Future[None] | None = None
        self.delayed_start: DelayedStart | None = None
        """The start of the job's orchestration, while the request delays it for the outcome."""

    @property
    def shortest_pause_seconds(self) -> float:
        """The minimum time in seconds between two reads of the outcome by this waiter.

        This time grows with the number of waiters in the process, so that all waiters together make
        at most LOOKS_A_SECOND reads per second.
        """
        return self._waiters.count / LOOKS_A_SECOND

    @property
    def first_pause_seconds(self) -> float:
        """How many seconds this waiter waits before it reads the outcome for the first time.

        The value is normally FIRST_PAUSE_SECONDS. If the last OWN_ENDS waits ended with outcomes
        that this process recorded, the value is LONGEST_PAUSE_SECONDS. In this case, the app
        probably has only one process, which will notify the waiter, so an earlier read would be
        useless.
        """
        is_only_instance = self._waiters.is_only_instance
        return LONGEST_PAUSE_SECONDS if is_only_instance else FIRST_PAUSE_SECONDS

    def record_end(self, *, is_own: bool) -> None:
        """Record that the job of this waiter has ended, and which process recorded its outcome.

        `is_own` is true if this process recorded the outcome. After OWN_ENDS true values in
        succession, `first_pause_seconds` of later waiters is longer.
        """
        self._waiters.own_ends = self._waiters.own_ends + 1 if is_own else 0

    def notify(self, outcome: JobOutcome) -> None:
        """Pass the outcome to this waiter, so that `pause` returns it at once.

        If `pause` is not running, the next call of `pause` returns the outcome.
        """
        self._outcome = outcome
        self._end_pause()

    def delay_start(self) -> None:
        """Delay the start of the job's orchestration until the outcome is known.

        The outcome can then be part of the orchestration's input, and the orchestration needs one
        episode instead of two. `pause_before_start` waits for the outcome, and limits the delay.

        Call this method before the job's message is sent. From then on, a reply passes its outcome
        to this waiter. The outcome is recorded in the blob only if the start of the orchestration
        fails or takes too long.

        Has no effect if another instance of the app may get the reply, because that instance cannot
        pass the outcome to this waiter.
        """
        if self._waiters.is_only_instance:
            self.delayed_start = DelayedStart()

    async def pause_before_start(self, limit_seconds: float) -> JobOutcome | None:
        """Wait for the job's outcome before the orchestration is started; return the outcome.

        Returns None at once if `delay_start` was not called or had no effect. Otherwise, waits up
        to START_DELAY_SECONDS, but not longer than `limit_seconds`. Returns None if no outcome
        arrives in this time. A later outcome is then recorded in the blob, as usual.

        A returned outcome is not recorded anywhere yet. The caller must start the orchestration
        with this outcome, inside `with waiter.starting():`.
        """
        start = self.delayed_start
        if start is None:
            return None
        await self.pause(min(START_DELAY_SECONDS, limit_seconds))
        if start.outcome is None:
            self.delayed_start = None
        return start.outcome

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Record that the orchestration has started if the `with` block ends without an error.

        The block must start the orchestration. If the start was delayed, the HTTP request that
        brought the outcome waits until this method has recorded the start. If the block raises an
        error, this method records nothing.
        """
        yield
        if self.delayed_start is not None:
            self.delayed_start.end(has_started=True)
            self._waiters.keep_start(self.job_id, self.delayed_start)

    async def pause(
        self, seconds: float, reading: "asyncio.Task[Record | None] | None" = None
    ) -> JobOutcome | None:
        """Wait up to `seconds` until `notify` passes an outcome to this waiter.

        Args:
            seconds: The longest wait.
            reading: A task that reads from the blob storage whether the job has ended. The wait
                also ends when this task ends. The caller must read the result of the task.

        Returns:
            The outcome that `notify` has passed; None if there is no such outcome.
        """
        if self._outcome is None:
            loop = asyncio.get_running_loop()
            self._pause = loop.create_future()
            timer = loop.call_later(seconds, self._end_pause)
            if reading is not None:
                reading.add_done_callback(lambda _: self._end_pause())
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


class DelayedStart:
    """The start of a job's orchestration, which a request delays until the job has an outcome."""

    def __init__(self) -> None:
        self.outcome: JobOutcome | None = None
        """The outcome with which the orchestration is started; None if the job has not ended."""
        self.is_counted = False
        """Whether the end of the job is counted in the metrics."""
        self._end: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def end(self, *, has_started: bool) -> None:
        """Record whether the orchestration was started with the outcome.

        Only the first call has an effect.
        """
        if not self._end.done():
            self._end.set_result(has_started)

    async def wait(self) -> bool:
        """Wait for a call of `end`; return whether the orchestration was started with the outcome.

        Returns False if `end` is not called within LONGEST_START_SECONDS.
        """
        # Unlike `wait_for`, `wait` does not cancel the future, for which others also wait.
        await asyncio.wait([self._end], timeout=LONGEST_START_SECONDS)
        return self._end.done() and self._end.result()


class Waiters:
    """All waiters of this process, grouped by job."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[Waiter]] = {}
        self._past_starts: dict[str, DelayedStart] = {}
        self.count = 0
        self.own_ends = 0
        """How many waits in succession ended with an outcome that this process recorded."""

    @property
    def is_only_instance(self) -> bool:
        """Whether the app probably has no other instance that records outcomes."""
        return self.own_ends >= OWN_ENDS

    @contextmanager
    def waiting(self, job_id: str) -> Iterator[Waiter]:
        """Yield a waiter that is notified of the job's outcome during the `with` block."""
        waiter = Waiter(self, job_id)
        self._waiters.setdefault(job_id, set()).add(waiter)
        self.count += 1
        try:
            yield waiter
        finally:
            self.count -= 1
            if waiter.delayed_start is not None:
                waiter.delayed_start.end(has_started=False)
            waiters = self._waiters[job_id]
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[job_id]

    def notify(self, job_id: str, outcome: JobOutcome) -> None:
        """Pass the job's outcome to all waiters of this job."""
        for waiter in tuple(self._waiters.get(job_id, ())):
            waiter.notify(outcome)

    def start_with(self, job_id: str, outcome: JobOutcome) -> DelayedStart | None:
        """Pass the job's outcome to the HTTP request that delays the start of the orchestration.

        A request that waits for the job may delay the start of the job's orchestration until the
        outcome is known. Returns the delayed start, which now contains the outcome. Returns None if
        no request has delayed the start of this orchestration.

        Only the first outcome counts: on a later call, `outcome` is ignored, and the returned start
        contains the first outcome.
        """
        start = self.find_start(job_id)
        if start is not None and start.outcome is None:
            start.outcome = outcome
            self.notify(job_id, outcome)
        return start

    def find_start(self, job_id: str) -> DelayedStart | None:
        """Return the delayed start of the job's orchestration; None if there is none.

        A start is delayed while an HTTP request holds it back until the job has an outcome. One of
        the last PAST_STARTS starts is also found after it has succeeded.
        """
        for waiter in self._waiters.get(job_id, ()):
            if waiter.delayed_start is not None:
                return waiter.delayed_start
        return self._past_starts.get(job_id)

    def keep_start(self, job_id: str, start: DelayedStart) -> None:
        """Keep a start that has succeeded, so that `find_start` still finds it.

        Only the last PAST_STARTS starts are kept, without the replies, which may be large.
        """
        if start.outcome is not None:
            start.outcome = replace(start.outcome, reply=None)
        self._past_starts[job_id] = start
        if len(self._past_starts) > PAST_STARTS:
            del self._past_starts[next(iter(self._past_starts))]


class Jobs:
    """Finds jobs by their ids, waits until they end, and ends them."""

    def __init__(
        self, outcomes: OutcomeStore, progress: ProgressStore, waiters: Waiters, clock: Clock
    ) -> None:
        self._outcomes = outcomes
        self._progress = progress
        self._waiters = waiters
        self._clock = clock
        self._reads: set[asyncio.Task[Record | None]] = set()

    async def find(self, durable: Durable, job_id: str) -> Record | None:
        """Return the job's current record; None if the job does not exist.

        Raises Unavailable if Durable Functions or the blob storage fails.
        """
        instance = await durable.status(job_id)
        return None if instance is None else await self.record_of(job_id, instance)

    async def record_of(self, job_id: str, instance: InstanceSnapshot) -> Record | None:
        """Return the record of an orchestration's job; None if the orchestration runs no job.

        This method ends the job by recording an outcome in two cases: the orchestration has ended
        without an outcome, or it still runs EXPIRY_GRACE after the job's deadline. Raises
        Unavailable if the blob storage fails.
        """
        if (output := recorded_output(instance)) is not None:
            return output
        initial = first_record_of(instance)
        if initial is None or is_final(initial):
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
        waiter: Waiter,
        limit_seconds: float,
    ) -> Record | None:
        """Wait until a job ends; return its final record.

        Returns None if the job does not end within `limit_seconds`. `initial` is the record of the
        job before its end.

        The waiter is notified if this process records the outcome. Another process of the app may
        record the outcome instead. Therefore this method also reads the outcome's blob repeatedly.
        If the storage does not respond, the method continues to wait.
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
            reading = asyncio.create_task(
                self._read_end(
                    durable, job_id, initial, is_full=look_count % LOOKS_PER_FULL_LOOK == 0
                )
            )
            # The event loop has only a weak reference to a task.
            self._reads.add(reading)
            reading.add_done_callback(self._reads.discard)
            # If the outcome arrives first, the read continues, so that its connection is reused.
            outcome = await waiter.pause(max(LAST_READ_SECONDS, end - loop.time()), reading)
            if outcome is not None:
                waiter.record_end(is_own=True)
                return final_record(initial, outcome)
            if reading.done() and (found := reading.result()) is not None:
                waiter.record_end(is_own=False)
                return found
        return None

    async def _read_end(
        self, durable: Durable, job_id: str, initial: Record, *, is_full: bool
    ) -> Record | None:
        """Read whether a job has ended; return its final record, or None if it has not ended.

        `initial` is the record of the job before its end. If `is_full` is false, only the blob of
        the outcome is read. Otherwise the state of the orchestration is read, too. Returns None if
        a service does not respond.
        """
        try:
            if is_full:
                found = await self.find(durable, job_id)
                return found if found is not None and is_final(found) else None
            outcome = await self._outcomes.find(job_id)
        except Unavailable:
            return None
        return None if outcome is None else final_record(initial, outcome)

    async def finish(
        self, durable: Durable, job_id: str, outcome: JobOutcome, model: str | None
    ) -> JobOutcome:
        """End a job with this outcome unless the job has ended; return the recorded outcome.

        The end of the job is counted in the metrics of the job's model, `model`. If `model` is
        None, the end is not counted.

        If this call ends the job, it returns the object `outcome` itself. If the job had ended
        before, this method raises the event `reply` again, because the process that recorded the
        outcome may have died before it raised the event. If a waiting request starts the
        orchestration with the outcome, no event is raised.

        Raises:
            Unavailable: It is unknown whether the outcome was recorded. The caller must repeat
                the call.
            UnknownInstance: The job does not exist.
            FinalInstance: The orchestration had ended before this call, and no blob had an outcome.
        """
        if (start := self._waiters.start_with(job_id, outcome)) is not None:
            return await self._record_start(job_id, start, outcome, model)
        recorded = await self._outcomes.record(job_id, outcome, model)
        self._waiters.notify(job_id, recorded)
        # The event loop answers the waiting caller before this task continues.
        await asyncio.sleep(0)
        if recorded is outcome:
            await _raise_event(durable, job_id, recorded, _START_PAUSES_SECONDS)
        else:
            with contextlib.suppress(UnknownInstance, FinalInstance):
                await _raise_event(durable, job_id, recorded)
        return recorded

    async def _record_start(
        self, job_id: str, start: DelayedStart, outcome: JobOutcome, model: str | None
    ) -> JobOutcome:
        """Wait until a request has started the orchestration with an outcome; return this outcome.

        If the start failed, or if it is unknown whether it failed, the outcome is recorded in the
        blob, and the recorded outcome is returned. Raises Unavailable if it cannot be recorded.
        """
        first = start.outcome or outcome
        has_started = await start.wait()
        recorded = first if has_started else await self._outcomes.record(job_id, first, model=None)
        # An outcome that was read from its blob is another object, and has shorter times.
        is_first = recorded is first or outcome_to_json(recorded) == outcome_to_json(first)
        # If two replies wait, both record the first outcome, but it is counted once.
        if is_first and not start.is_counted and model is not None:
            start.is_counted = True
            self._outcomes.count_end(model, first)
        return outcome if is_first and first is outcome else recorded

    async def _overdue(
        self, job_id: str, initial: Record, instance: InstanceSnapshot
    ) -> JobOutcome | None:
        """Return the outcome to record if the orchestration has ended or is late.

        The orchestration is late if it still runs after the job's deadline plus EXPIRY_GRACE.
        Returns None if the orchestration still runs and is not late. `initial` is the record of the
        job before its end.
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

    The status is `cancelled` if the worker was ordered to stop the job, otherwise `expired`. The
    error of an expired job has the stage `run` if a worker has reported that the job runs,
    otherwise `queue`. If the model does not report progress, the stage is always `queue`, although
    the job may be running. Raises Unavailable if the blob storage fails.
    """
    found = await progress.read_if_reported(job_id, model)
    if found.report is None:
        return JobOutcome.expired(now)
    if found.cancelling:
        return JobOutcome.cancelled(now, found.report.started_at)
    return JobOutcome.expired(now, EXPIRED_WHILE_RUNNING)


async def _raise_event(
    durable: Durable, job_id: str, outcome: JobOutcome, pauses_seconds: Sequence[float] = ()
) -> None:
    """Raise the event `reply`; only log a warning if Durable Functions does not respond.

    If the event is not raised, the orchestration finds the recorded outcome when its timer fires.

    If the orchestration does not exist, the call is repeated after each delay in `pauses_seconds`.

    Raises:
        UnknownInstance: The orchestration does not exist, even after all delays.
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
                'job %s: the external event "reply" could not be raised (%s); the orchestration '
                "will read the recorded outcome",
                job_id,
                error,
            )
            return
        else:
            return


async def add_text_result(payloads: PayloadStore, record: Record) -> Record:
    """Return the record with its text result, if a blob contains a text of up to 64 KiB.

    The record is unchanged if the blob was deleted or the storage does not respond. The job's link
    to its result then reports the problem.
    """
    result = record["result"]
    if not result or "blob" not in result or not is_text(result["media_type"]):
        return record
    ref = payload_from_json(Fields(result))
    if not isinstance(ref, PayloadRef) or ref.size_bytes > TEXT_LIMIT_BYTES:
        return record
    try:
        data = await payloads.get(ref)
    except (MissingPayload, PayloadCorrupt, Unavailable):
        return record
    return {**record, "result": payload_to_json(InlineBytes(ref.media_type, data))}
