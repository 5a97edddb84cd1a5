"""The lines of batches as jobs: find them, end them, and list them.

A line has no orchestration. What the gateway knows of it is in the blobs of its batch: the spec,
the line in its segment, and the entry about its end in the log of the segment. An outcome counts
when its entry is appended, if it is the line's first.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, TypeVar

from contract.catalogue import Catalogue, Priority, choose_version
from contract.messages import InlineJson, JobRequest
from gateway.batches.ends import LineEnd, encode_end, parse_end
from gateway.batches.ids import LineKey, line_id, line_of
from gateway.batches.model import BatchSpec, BatchStatus, segment_of
from gateway.batches.store import WHOLE, BatchStore, ends_blob, segment_blob
from gateway.batches.wake import BatchWaker
from gateway.clock import Clock
from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs.lifecycle import OutcomeStore, Waiters
from gateway.jobs.model import (
    JobOutcome,
    JobStatus,
    Record,
    Ticket,
    final_record,
    initial_record,
    outcome_from_json,
    outcome_to_json,
    write_ticket,
)
from gateway.jobs.orchestrator import log_failure
from gateway.jobs.progress import ProgressStore
from gateway.jobs.search import JobFilter
from gateway.storage.blobs import Blobs
from gateway.storage.logs import MAX_READ_BYTES, LogWriter

MAX_SEGMENTS_READ: Final = 40
"""How many segments are read for one page of a list."""

BATCH_KNOWN: Final = timedelta(seconds=5)
"""How long a batch counts as not ended without another look at its state."""

GATHER_SECONDS: Final = 0.02
"""How long the end of a line waits for others, to be appended by the same request."""

_CACHED_BATCHES: Final = 1024
_CACHED_SEGMENTS: Final = 128
_READS_AT_ONCE: Final = 16


@dataclass(slots=True)
class _Batch:
    """What this process remembers of a batch. Bit N of `ended`: it has recorded the end of line N.

    `segments` has the number of lines of each segment.
    """

    segments: list[int]
    is_final: bool
    read_at: datetime
    ended: int = 0

    def has_ended(self, number: int) -> bool:
        """Return whether the line is known to have ended."""
        return self.is_final or bool(self.ended >> number & 1)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a line's first entry is in the log of its segment, and what it says."""

    start: int
    size_bytes: int
    status: str
    code: str | None


@dataclass(slots=True)
class _Segment:
    """What this process remembers of a segment. Its log was read up to `offset`."""

    writer: LogWriter
    offset: int = 0
    ends: dict[int, _Entry] = field(default_factory=dict)
    custom_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinePage:
    """A page of lines, in the order of the file. `following` is the next line; None at the end."""

    jobs: list[tuple[str, Record]]
    following: int | None


def line_record(
    spec: BatchSpec, job_id: str, custom_id: str, model: str, outcome: JobOutcome | None
) -> Record:
    """Return the record of a line's job. `model` is the entry of the catalogue that runs it."""
    initial = initial_record(_write_ticket(spec, job_id, custom_id, model))
    return initial if outcome is None else final_record(initial, outcome)


def _write_ticket(
    spec: BatchSpec, job_id: str, custom_id: str, model: str, outcome: JobOutcome | None = None
) -> Ticket:
    request = JobRequest(
        job_id=job_id,
        model=model,
        input=InlineJson(None),  # the message has the input
        created_at=datetime.fromisoformat(spec.created_at),
        deadline=spec.deadline_at,
        operation=spec.operation,
        batch=spec.id,
    )
    return write_ticket(
        request,
        spec.traceparent,
        spec.tenant,
        priority=Priority.LOW,
        label=spec.label,
        outcome=outcome,
        custom_id=custom_id,
    )


class BatchLines:
    """Finds the jobs of lines by their ids, and ends them.

    Each method raises Unavailable if the storage fails.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what the jobs of lines have in common with others
        self,
        blobs: Blobs,
        store: BatchStore,
        waker: BatchWaker,
        catalogue: Catalogue,
        outcomes: OutcomeStore,
        progress: ProgressStore,
        waiters: Waiters,
        clock: Clock,
    ) -> None:
        self._blobs = blobs
        self._store = store
        self._waker = waker
        self._catalogue = catalogue
        self._outcomes = outcomes
        self._progress = progress
        self._waiters = waiters
        self._clock = clock
        self._batches: OrderedDict[str, _Batch] = OrderedDict()
        self._segments: OrderedDict[tuple[str, int], _Segment] = OrderedDict()

    async def snapshot(self, job_id: str) -> InstanceSnapshot | None:
        """Return the orchestration that the line would have; None if there is no such line."""
        if (key := line_of(job_id)) is None:
            return None
        spec, batch = await self._store.spec(key.batch_id), await self._find_batch(key)
        if spec is None or batch is None:
            return None
        index, place = segment_of(batch.segments, key.number)
        segment = self._segment(key.batch_id, index)
        await self._read_names(key.batch_id, index, segment)
        await self._read_ends(key.batch_id, index, segment)
        model, outcome = await self._read_end(key, index, segment)
        ticket = _write_ticket(
            spec,
            job_id,
            segment.custom_ids[place],
            model or self._model_of(spec, job_id),
            outcome,
        )
        status = RuntimeStatus.RUNNING if outcome is None else RuntimeStatus.COMPLETED
        updated_at = datetime.fromisoformat(spec.created_at) if outcome is None else outcome.at
        return InstanceSnapshot(status, ticket.text, None, updated_at)

    async def finish(
        self, durable: Durable, job_id: str, outcome: JobOutcome, model: str | None
    ) -> JobOutcome:
        """End a line with this outcome unless it has ended; return the recorded outcome.

        If this call ends the line, it returns the object `outcome` itself, as it does for a reply
        if another process has ended the line: a reader of the log then ignores the reply. Raises
        FinalInstance if the line is known to have ended, or the batch no longer exists, and
        UnknownInstance if the id is not one of a line.
        """
        if (key := line_of(job_id)) is None:
            raise UnknownInstance(job_id)
        batch = await self._find_batch(key)
        if batch is None or batch.has_ended(key.number):
            raise FinalInstance(job_id)
        index, _ = segment_of(batch.segments, key.number)
        segment = self._segment(key.batch_id, index)
        if outcome.status is JobStatus.CANCELLED:
            # Workers learn of the line from this, even if this process dies now.
            await self._store.mark_cancelled(key.batch_id, key.number)
        entry = encode_end(key.number, outcome, model)
        await segment.writer.append(ends_blob(key.batch_id, index), entry)
        batch.ended |= 1 << key.number
        recorded, is_sent = outcome, True
        if outcome.reply is None:
            await self._read_ends(key.batch_id, index, segment)
            _, first = await self._read_end(key, index, segment)
            if first is not None and outcome_to_json(first) != outcome_to_json(outcome):
                recorded = first
            state, _ = await self._store.state(key.batch_id)
            is_sent = key.number <= state.sent
        self._waiters.notify(job_id, recorded)
        if model is not None and recorded is outcome and is_sent:
            self._note_end(job_id, outcome, model)
        self._waker.wake(durable, key.batch_id)
        return recorded

    def _note_end(self, job_id: str, outcome: JobOutcome, model: str) -> None:
        """Count the end of a line that was sent, and log it if the line failed."""
        self._outcomes.count_end(model, outcome)
        if outcome.status is JobStatus.FAILED:
            code = LineEnd(0, model, outcome_to_json(outcome)).code
            ended = {"model": model, "status": outcome.status, "error": {"code": code}}
            log_failure(job_id, ended)

    async def is_wanted(self, job_id: str) -> bool:
        """Return whether a reply of this line is wanted."""
        if (key := line_of(job_id)) is None:
            return False
        if not {WHOLE, key.number}.isdisjoint(await self._store.cancelled(key.batch_id)):
            return False
        batch = await self._find_batch(key)
        if batch is None or batch.has_ended(key.number):
            return False
        index, _ = segment_of(batch.segments, key.number)
        segment = self._segment(key.batch_id, index)
        await self._read_ends(key.batch_id, index, segment)
        return key.number not in segment.ends

    async def cancelled_lines(self, job_id: str) -> list[str] | None:
        """Return the jobs of the line's batch that must not run; None if none of it must."""
        if (key := line_of(job_id)) is None:
            return None
        numbers = await self._store.cancelled(key.batch_id)
        if WHOLE in numbers:
            return None
        return [line_id(key.batch_id, each) for each in sorted(numbers)]

    async def list_page(
        self, spec: BatchSpec, wanted: JobFilter, first: int, limit: int
    ) -> LinePage:
        """Return up to `limit` lines from the line `first` on that have this status and code.

        There may be a following line even if the page is not full.
        """
        state, _ = await self._store.state(spec.id)
        found: list[tuple[str, Record]] = []
        number = first
        for _ in range(MAX_SEGMENTS_READ):
            if number > state.total:
                return LinePage(found, None)
            index, place = segment_of(state.segments, number)
            segment = self._segment(spec.id, index)
            await self._read_ends(spec.id, index, segment)
            start, stop = number - place, number - place + state.segments[index]
            numbers = [
                each for each in range(number, stop) if _may_match(segment.ends.get(each), wanted)
            ]
            if numbers:
                await self._read_names(spec.id, index, segment)
            for at in range(0, len(numbers), _READS_AT_ONCE):
                part = numbers[at : at + _READS_AT_ONCE]
                records = await asyncio.gather(
                    *(self._read_record(spec, each, index, segment, start) for each in part)
                )
                for each, (job_id, record) in zip(part, records, strict=True):
                    if wanted.matches(record):
                        if len(found) == limit:
                            return LinePage(found, each)
                        found.append((job_id, record))
            number = stop
        return LinePage(found, number if number <= state.total else None)

    async def _read_record(
        self, spec: BatchSpec, number: int, index: int, segment: _Segment, start: int
    ) -> tuple[str, Record]:
        job_id = line_id(spec.id, number)
        model, outcome = await self._read_end(LineKey(spec.id, number), index, segment)
        custom_id = segment.custom_ids[number - start]
        model = model or self._model_of(spec, job_id)
        record = line_record(spec, job_id, custom_id, model, outcome)
        return job_id, await self._progress.add_to(job_id, record)

    def _model_of(self, spec: BatchSpec, job_id: str) -> str:
        """Return the entry of the catalogue that runs a line that has not ended, as a rule."""
        model = self._catalogue.get(spec.model)
        if model is None or not model.versions or spec.is_pinned:
            return spec.model
        version = choose_version(model.versions, job_id)
        return self._catalogue.versions(model)[version].name

    async def _find_batch(self, key: LineKey) -> _Batch | None:
        """Return what is known of the batch of a line; None if there is no such line.

        Raises Unavailable if the batch's lines are not known yet.
        """
        now = self._clock()
        known = self._batches.get(key.batch_id)
        if known is None or (not known.is_final and now - known.read_at > BATCH_KNOWN):
            if known is not None:
                known.read_at = now  # other requests need not read it, too
            state, etag = await self._store.state(key.batch_id)
            if etag is None:
                return None
            if state.status is BatchStatus.VALIDATING:
                raise Unavailable("blobs", f"the lines of batch {key.batch_id} are not known yet")
            known = _remember(
                self._batches,
                key.batch_id,
                lambda: _Batch(state.segments, state.status.is_final, now),
                _CACHED_BATCHES,
            )
            known.is_final = state.status.is_final
        return known if key.number <= sum(known.segments) else None

    def _segment(self, batch_id: str, index: int) -> _Segment:
        def make() -> _Segment:
            return _Segment(LogWriter(self._blobs, GATHER_SECONDS))

        return _remember(self._segments, (batch_id, index), make, _CACHED_SEGMENTS)

    async def _read_names(self, batch_id: str, index: int, segment: _Segment) -> None:
        """Read the names of the lines of a segment, which never change."""
        if segment.custom_ids:
            return
        found = await self._blobs.read(segment_blob(batch_id, index))
        if found is None:
            raise Unavailable("blobs", f"segment {index} of batch {batch_id} is missing")
        rows = found.data.split(b"\n")
        segment.custom_ids = tuple(json.loads(row)["custom_id"] for row in rows if row)

    async def _read_ends(self, batch_id: str, index: int, segment: _Segment) -> None:
        """Read what was appended to the log of a segment."""
        while True:
            start = segment.offset
            data = await self._blobs.read_from(ends_blob(batch_id, index), start, MAX_READ_BYTES)
            for entry in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
                if (end := parse_end(entry)) is not None:
                    place = _Entry(start, len(entry), end.status, end.code)
                    segment.ends.setdefault(end.number, place)
                start += len(entry)
            segment.offset = max(segment.offset, start)
            if len(data) < MAX_READ_BYTES:
                return

    async def _read_end(
        self, key: LineKey, index: int, segment: _Segment
    ) -> tuple[str | None, JobOutcome | None]:
        """Return the model and the outcome of a line from the log, if they are there."""
        if (entry := segment.ends.get(key.number)) is None:
            return None, None
        blob = ends_blob(key.batch_id, index)
        end = parse_end(await self._blobs.read_from(blob, entry.start, entry.size_bytes))
        if end is None:
            raise Unavailable("blobs", f"the blob {blob} has changed")
        return end.model, outcome_from_json(end.outcome)


def _may_match(entry: _Entry | None, wanted: JobFilter) -> bool:
    """Return whether a line can match, without reading its outcome."""
    if entry is None:
        return wanted.code is None and (wanted.status is None or not wanted.status.is_final)
    return wanted.status in {None, entry.status} and wanted.code in {None, entry.code}


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


def _remember(
    known: OrderedDict[_Key, _Value], key: _Key, make: Callable[[], _Value], limit: int
) -> _Value:
    """Return the value of a key, which is made if it is missing, and forget the oldest ones."""
    if (value := known.get(key)) is None:
        value = known[key] = make()
        if len(known) > limit:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return value
