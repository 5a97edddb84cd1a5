"""The step of a batch: the activity that does all the work of its orchestration.

    check the file ──▶ [ read the logs of ends ──▶ send lines ──▶ compose ended segments ] ──▶ end
                            at a cancellation or the deadline, end the lines that have not ended

Only the step writes the state of a batch, with If-Match. It may run twice, and on two hosts at
once: every other effect can be repeated. A message has the id of its line, so the queue drops a
second one. The first entry in a log counts. The output is appended at a known length. If the state
was changed by another run, this one ends, and the next one reads it again.

The window has the lines that were sent and have not ended, a few seconds' worth. So the queue stays
short, other jobs pass, and a cancellation is quick.
"""

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contract.catalogue import Catalogue, split_name
from contract.messages import FailureCode, JobError, Stage, format_time
from contract.queues import LOW_PRIORITY_MESSAGES_PER_WORKER
from gateway.batches.ends import encode_end, parse_end
from gateway.batches.ids import line_id
from gateway.batches.intake import CheckedFile, LineIntake
from gateway.batches.model import (
    BatchSpec,
    BatchState,
    BatchStatus,
    SegmentLog,
    segment_of,
)
from gateway.batches.output import EndedSegment, append_output
from gateway.batches.sending import LineSender
from gateway.batches.store import WHOLE, BatchStore, ends_blob, segment_blob
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.jobs.lifecycle import EndRecorder, OutcomeStore
from gateway.jobs.model import JobOutcome, JobStatus
from gateway.queues.model_states import ModelStates
from gateway.shares.limits import Limits
from gateway.storage.blobs import Blobs
from gateway.storage.logs import MAX_READ_BYTES, LogTail

MIN_WINDOW: Final = 2 * LOW_PRIORITY_MESSAGES_PER_WORKER
MAX_WINDOW: Final = 1000
WINDOW_SECONDS: Final = 3.0
"""The window has as many lines as end in this time, within these limits.

It also has as many as let KEDA start one more worker: without it, a long batch would run on one.
"""

SENT_AT_ONCE: Final = 100
"""How many lines are sent at once: a batch of messages."""

CANCEL_SECONDS: Final = 1.0
"""How often the check of a file looks for a cancellation."""

SLICE_SECONDS: Final = 20.0
"""After what time a step leaves the rest to the next one."""

PLACES_FILLED: Final = 2
"""The window has at least so many times the jobs that a worker runs at once: half of them wait."""

MAX_CODES: Final = 100
OTHER_CODES: Final = "other"
"""Counts the errors with codes beyond the first MAX_CODES."""

RATE_SECONDS: Final = 2.0
"""The rate is an average that forgets in about this time."""

LEAST_MEASURED_SECONDS: Final = 0.3
"""The rate is measured over no shorter time."""

SHORTEST_PAUSE_SECONDS: Final = 10.0
LONGEST_PAUSE_SECONDS: Final = 120.0
"""How long to wait for an event: as long as nothing has changed, within these limits."""

SEND_PAUSE_SECONDS: Final = 2.0
"""The pause after lines could not be sent."""

LIMITED_PAUSE_SECONDS: Final = 5.0
"""The pause while the limits of the tenant allow no more lines. An end of a line shortens it."""

STEPS_AT_ONCE: Final = 4
CHECKS_AT_ONCE: Final = 2
"""How many steps of this process work at the same time, and how many check a file: this bounds the
memory, because a step holds up to a segment with its outcomes."""

READ_AT_ONCE: Final = 20
"""After how many entries, of up to 24 KiB each, other requests get their turn."""

CACHED_BYTES: Final = 16 * 1024 * 1024
"""How many bytes of lines that were not all sent a process keeps between steps."""

EXPIRED: Final = JobError(
    FailureCode.EXPIRED,
    "the deadline of the batch passed before the line ended",
    Stage.QUEUE,
    retryable=True,
)

COUNTED: Final = frozenset(status.value for status in JobStatus if status.is_final)
"""The statuses of lines that have ended, which are also the names of their counts."""

_ENDS: Final = {JobStatus.CANCELLED: BatchStatus.CANCELLED, JobStatus.EXPIRED: BatchStatus.EXPIRED}

_log = logging.getLogger(__name__)


class StateChanged(Exception):
    """Another run of the step has written the state, or the response to our write was lost."""


@dataclass(slots=True)
class _Run:
    """One run of the step. `etag` is that of `saved`."""

    spec: BatchSpec
    state: BatchState
    etag: str | None
    saved: bytes
    """The state as it was last read or written."""
    ends_at: float = 0.0
    """On the clock of the event loop."""

    def first_line(self, index: int) -> int:
        """Return the number of the first line of a segment."""
        return sum(self.state.segments[:index]) + 1

    def has_ended(self, index: int, place: int) -> bool:
        """Return whether the end of a line of a segment was read. Its place counts from 0."""
        log = self.state.logs.get(index)
        return log is not None and bool(log.ended >> place & 1)

    @property
    def is_late(self) -> bool:
        """Whether the rest of the work is for the next step."""
        return asyncio.get_running_loop().time() >= self.ends_at


class BatchSteps:
    """Implements the activity `step_batch`."""

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of a batch's path
        self,
        blobs: Blobs,
        store: BatchStore,
        intake: LineIntake,
        sender: LineSender,
        catalogue: Catalogue,
        states: ModelStates,
        outcomes: OutcomeStore,
        limits: Limits,
        ends: EndRecorder,
        clock: Clock,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._intake = intake
        self._sender = sender
        self._catalogue = catalogue
        self._states = states
        self._outcomes = outcomes
        self._limits = limits
        self._ends = ends
        self._clock = clock
        self._steps = asyncio.Semaphore(STEPS_AT_ONCE)
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._segments: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def run(self, batch_id: str) -> str:
        """Do a part of the work of a batch, and return what its orchestration does next, as JSON.

        This is `{"pause_seconds"}`, or `{"final": the status, "has_webhook"}`. Raises Unavailable
        if a service fails; then the step must be repeated.
        """
        spec = await self._store.spec(batch_id)
        if spec is None:
            # The housekeeping has deleted it.
            return json.dumps({"final": "unknown", "has_webhook": False})
        try:
            found = await self._step(spec)
        except StateChanged:
            found = 0.0
        if isinstance(found, BatchStatus):
            has_webhook = spec.webhook_url is not None
            return json.dumps({"final": found.value, "has_webhook": has_webhook})
        return json.dumps({"pause_seconds": found})

    async def _step(self, spec: BatchSpec) -> BatchStatus | float:
        """Return the final status of the batch, or how long to wait for the next step."""
        state, etag = await self._store.state(spec.id)
        run = _Run(spec, state, etag, b"" if etag is None else state.encode())
        if state.status.is_final:
            return state.status
        cancelled = await self._store.cancelled(spec.id)
        if state.status is BatchStatus.VALIDATING:
            async with self._checks:
                checked = await self._check(run, is_cancelled=WHOLE in cancelled)
            if checked.is_final:
                return checked
        async with self._steps:
            run.ends_at = asyncio.get_running_loop().time() + SLICE_SECONDS
            return await self._advance(run, cancelled)

    async def _check(self, run: _Run, *, is_cancelled: bool) -> BatchStatus:
        """Check the file of a batch and write the first state; return its status."""
        spec, state = run.spec, run.state
        await self._store.list_for_owner(spec)
        if is_cancelled:
            state.status = BatchStatus.CANCELLED
        elif self._clock() >= spec.deadline_at:
            state.status = BatchStatus.EXPIRED
        elif (checked := await self._validate(spec)) is None:
            state.status = BatchStatus.CANCELLED
        else:
            state.segments, state.problems = checked.segments, checked.problems
            state.status = BatchStatus.FAILED if checked.problems else BatchStatus.RUNNING
        now = format_time(self._clock())
        if state.status is BatchStatus.RUNNING:
            state.started_at = now
        else:
            state.finished_at = now
        _log.info("batch %s of %s is %s", spec.id, spec.model, state.status.value)
        # A reply needs the segments, so the state is there before a line is sent.
        await self._save(run)
        return state.status

    async def _validate(self, spec: BatchSpec) -> CheckedFile | None:
        """Check the file of a batch; return None if the batch is cancelled meanwhile."""
        checking = asyncio.create_task(self._intake.validate(spec))
        try:
            while not checking.done():
                await asyncio.wait([checking], timeout=CANCEL_SECONDS)
                if not checking.done() and await self._store.is_cancelled(spec.id):
                    return None
            return checking.result()
        finally:
            checking.cancel()

    async def _advance(self, run: _Run, cancelled: frozenset[int]) -> BatchStatus | float:
        spec, state = run.spec, run.state
        stop: JobStatus | None = None
        if WHOLE in cancelled:
            stop = JobStatus.CANCELLED
            state.status = BatchStatus.CANCELLING
        elif self._clock() >= spec.deadline_at:
            stop = JobStatus.EXPIRED
        await self._read_ends(run, reads_ahead=bool(cancelled))
        pause_seconds = None
        if stop is None:
            await self._end_cancelled(run, cancelled)
            pause_seconds = await self._send(run)
        while state.composed < len(state.segments):
            if stop is not None:
                await self._end_rest(run, state.composed, stop)
            if not _is_whole(state, state.composed):
                await self._save(run)
                return self._pause(run) if pause_seconds is None else pause_seconds
            # Each segment is saved before the next one, so the output never has lines of two.
            await self._compose(run)
            if state.composed == len(state.segments):
                state.status = BatchStatus.SUCCEEDED if stop is None else _ENDS[stop]
                state.finished_at = format_time(self._clock())
            await self._save(run)
            if run.is_late:
                return 0.0
        _log.info("batch %s of %s has ended as %s", spec.id, spec.model, state.status.value)
        return state.status

    def _pause(self, run: _Run) -> float:
        now = self._clock()
        changed_at = datetime.fromisoformat(run.state.updated_at or run.spec.created_at)
        seconds = max(SHORTEST_PAUSE_SECONDS, (now - changed_at).total_seconds())
        left_seconds = (run.spec.deadline_at - now).total_seconds()
        return max(0.0, min(seconds, LONGEST_PAUSE_SECONDS, left_seconds))

    async def _save(self, run: _Run) -> None:
        """Write the state if it has changed. Raises StateChanged."""
        if run.state.encode() == run.saved:
            return
        run.state.updated_at = format_time(self._clock())
        etag = await self._store.write_state(run.spec.id, run.state, run.etag)
        if etag is None:
            raise StateChanged
        run.etag, run.saved = etag, run.state.encode()

    # The logs of ends

    async def _read_ends(self, run: _Run, *, reads_ahead: bool) -> None:
        """Count the ends that were appended to the logs of the segments that are being sent.

        Lines that are not sent yet have ended only if they were cancelled one by one.
        """
        state = run.state
        first = run.first_line(state.composed)
        for index in range(state.composed, len(state.segments)):
            if first > state.sent + (MAX_WINDOW if reads_ahead else 0):
                break
            await self._read_log(run, index, first)
            first += state.segments[index]
        self._measure(state)

    async def _read_log(self, run: _Run, index: int, first: int) -> None:
        state = run.state
        log = state.logs.setdefault(index, SegmentLog())
        tail = LogTail(self._blobs, ends_blob(run.spec.id, index), log.offset)
        async for entry in _read(tail):
            _count(state, log, entry, first, state.segments[index])
        log.offset = tail.offset

    def _measure(self, state: BatchState) -> None:
        """Update the rate at which lines end."""
        since, now = state.measured_at or state.started_at, self._clock()
        ended = state.ended - state.measured
        if not ended or since is None:
            return
        seconds = (now - datetime.fromisoformat(since)).total_seconds()
        if seconds < LEAST_MEASURED_SECONDS:
            return
        rate = state.rate or 0.0
        weight = seconds / (seconds + RATE_SECONDS) if rate else 1.0
        state.rate = round(rate + weight * (ended / seconds - rate), 3)
        state.measured_at, state.measured = format_time(now), state.ended

    async def _first_ends(self, run: _Run, index: int) -> dict[int, bytes]:
        """Return the entries in the log of a segment that count, by the numbers of their lines."""
        first = run.first_line(index)
        numbers = range(first, first + run.state.segments[index])
        found: dict[int, bytes] = {}
        tail = LogTail(self._blobs, ends_blob(run.spec.id, index))
        async for entry in _read(tail):
            end = parse_end(entry)
            if end is None or end.outcome.get("status") not in COUNTED:
                continue
            if end.number in numbers:
                found.setdefault(end.number, entry)
        return found

    async def _end_cancelled(self, run: _Run, cancelled: Iterable[int]) -> None:
        """End the lines that were cancelled one by one, if the request has died before that."""
        segments = run.state.segments
        for number in cancelled:
            if 0 < number <= run.state.total:
                index, place = segment_of(segments, number)
                if index in run.state.logs and not run.has_ended(index, place):
                    ends = {number: JobOutcome.cancelled(self._clock())}
                    await self._append_ends(run, index, ends)

    async def _end_rest(self, run: _Run, index: int, stop: JobStatus) -> None:
        """End the lines of a segment that have not ended."""
        first = run.first_line(index)
        await self._read_log(run, index, first)
        places = range(run.state.segments[index])
        numbers = [first + place for place in places if not run.has_ended(index, place)]
        now = self._clock()
        is_cancelled = stop is JobStatus.CANCELLED
        outcome = JobOutcome.cancelled(now) if is_cancelled else JobOutcome.expired(now, EXPIRED)
        await self._append_ends(run, index, dict.fromkeys(numbers, outcome))

    async def _append_ends(self, run: _Run, index: int, ends: Mapping[int, JobOutcome]) -> None:
        """Append ends of lines, by their numbers, to the log of their segment, and count them."""
        if not ends:
            return
        entries = b"".join(encode_end(*end) + b"\n" for end in ends.items())
        await self._blobs.append(ends_blob(run.spec.id, index), entries)
        for number, outcome in ends.items():
            if number <= run.state.sent:
                self._outcomes.count_end(run.spec.model, outcome)
                job_id = line_id(run.spec.id, number)
                self._ends.record_end(run.spec.model, job_id, "")
        self._limits.drop(run.spec.tenant, (line_id(run.spec.id, number) for number in ends))
        await self._read_log(run, index, run.first_line(index))

    async def _send(self, run: _Run) -> float | None:
        """Send lines until the window is full; return how long to wait if there are more."""
        state, window = run.state, await self._find_window(run)
        while state.sent < state.total and (room := window - state.in_flight) > 0:
            if run.is_late:
                return 0.0
            index, place = segment_of(state.segments, state.sent + 1)
            first = run.first_line(index)
            lines = await self._read_lines(run.spec.id, index)
            stop = min(place + min(room, SENT_AT_ONCE), len(lines))
            wanted = [
                (first + each, lines[each])
                for each in range(place, stop)
                if not run.has_ended(index, each)
            ]
            sent = await self._sender.send(run.spec, wanted, state.in_flight)
            is_all = sent.count == len(wanted)
            state.sent = first - 1 + stop if is_all else wanted[sent.count][0] - 1
            now = self._clock()
            failed = {each: JobOutcome.failed(error, now) for each, error in sent.refused.items()}
            await self._append_ends(run, index, failed)
            if sent.error is not None:
                _log.warning("batch %s: lines cannot be sent: %s", run.spec.id, sent.error)
                return SEND_PAUSE_SECONDS
            if sent.is_limited:
                return LIMITED_PAUSE_SECONDS
            if not is_all:
                break
        return None

    async def _find_window(self, run: _Run) -> int:
        """Return how many lines may be in flight."""
        workers = await self._states.ready_count(split_name(run.spec.model)[0])
        model = self._catalogue.get(run.spec.model)
        at_once = max(model.max_concurrent_jobs, model.max_batch_size) if model else 0
        lines = (
            WINDOW_SECONDS * (run.state.rate or 0.0),
            LOW_PRIORITY_MESSAGES_PER_WORKER * ((workers or 0) + 1),
            PLACES_FILLED * at_once,
        )
        return max(MIN_WINDOW, min(MAX_WINDOW, round(max(lines))))

    async def _read_lines(self, batch_id: str, index: int) -> list[bytes]:
        """Return the lines of a segment, which stay in memory for the next steps."""
        key = batch_id, index
        if key not in self._segments:
            found = await self._blobs.read(segment_blob(batch_id, index))
            if found is None:
                raise Unavailable("blobs", f"segment {index} of batch {batch_id} is missing")
            self._segments[key] = found.data.rstrip(b"\n")
            while len(self._segments) > 1 and self._cached_bytes > CACHED_BYTES:
                self._segments.popitem(last=False)
        self._segments.move_to_end(key)
        return self._segments[key].split(b"\n")

    @property
    def _cached_bytes(self) -> int:
        return sum(map(len, self._segments.values()))

    # The output

    async def _compose(self, run: _Run) -> None:
        """Add the next segment, all of whose lines have ended, to the output."""
        state, index = run.state, run.state.composed
        lines = await self._read_lines(run.spec.id, index)
        ends = await self._first_ends(run, index)
        segment = EndedSegment(run.first_line(index), lines, ends)
        form = self._intake.form_of(run.spec)
        await append_output(self._blobs, run.spec, form, state, segment)
        del state.logs[index]
        self._segments.pop((run.spec.id, index), None)


def _is_whole(state: BatchState, index: int) -> bool:
    """Return whether all lines of a segment have ended."""
    log = state.logs.get(index)
    return log is not None and log.ended == (1 << state.segments[index]) - 1


async def _read(tail: LogTail) -> AsyncIterator[bytes]:
    """Yield what was appended to a log; other tasks may run in between."""
    start = -1
    while tail.offset - start >= MAX_READ_BYTES // 2 or start < 0:
        start = tail.offset
        for number, entry in enumerate(await tail.read()):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
            yield entry


def _count(state: BatchState, log: SegmentLog, entry: bytes, first: int, count: int) -> None:
    """Count the end of a line in an entry of its segment's log, if it is the line's first."""
    end = parse_end(entry)
    if end is None or end.outcome.get("status") not in COUNTED:
        return
    place = end.number - first
    if not 0 <= place < count or log.ended >> place & 1:
        return
    log.ended |= 1 << place
    setattr(state, end.status, getattr(state, end.status) + 1)
    if (code := end.code) is not None:
        if code not in state.error_codes and len(state.error_codes) >= MAX_CODES:
            code = OTHER_CODES
        state.error_codes[code] = state.error_codes.get(code, 0) + 1
