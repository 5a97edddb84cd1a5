"""Compose the results and the errors of a batch, in the order of its input.

Both are append blobs, to which one segment after the other is added when all its lines have ended.
The lines are a function of the segment and of the first entries in its log, so two hosts that
compose a segment at the same time add the same lines. Each append names the length that the blob
must have. If it has another one, because another host or a request without a response was first,
the lines that are there are counted, and the others follow them.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from contract.errors import ContractError
from gateway.batches.ends import LineEnd, parse_end
from gateway.batches.ids import line_id
from gateway.batches.intake import LineForm
from gateway.batches.lines import line_record
from gateway.batches.model import BatchSpec, BatchState
from gateway.batches.store import errors_blob, results_blob
from gateway.errors import Unavailable
from gateway.jobs.model import LOST, JobOutcome, JobStatus, outcome_from_json
from gateway.json_text import encode_any_json
from gateway.storage.blobs import Blobs
from gateway.storage.logs import MAX_READ_BYTES
from gateway.submission.create import gather_all

FLUSH_BYTES: Final = 512 * 1024
"""How many bytes of output are held before they are appended."""

COMPOSED_AT_ONCE: Final = 4
"""How many lines are composed at the same time: a large result is read from its blob."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndedSegment:
    """A segment, all of whose lines have ended. `first` is the number of its first line.

    `ends` has the entry about the end of each line, by its number.
    """

    first: int
    lines: list[bytes]
    ends: Mapping[int, bytes]


async def append_output(
    blobs: Blobs, spec: BatchSpec, form: LineForm, state: BatchState, segment: EndedSegment
) -> None:
    """Append the output of a segment behind that of the last one, and move `state` behind it.

    Raises Unavailable; then the same call can be repeated.
    """
    results = _Output(blobs, results_blob(spec.id), state.results_bytes)
    errors = _Output(blobs, errors_blob(spec.id), state.errors_bytes)
    numbers = range(segment.first, segment.first + len(segment.lines))
    for start in range(0, len(numbers), COMPOSED_AT_ONCE):
        group = numbers[start:][:COMPOSED_AT_ONCE]
        found = await gather_all([_show_line(spec, form, segment, number) for number in group])
        for is_result, line in found:
            await (results if is_result else errors).add(line)
    state.results_bytes = await results.flush()
    state.errors_bytes = await errors.flush()
    state.composed += 1


async def _show_line(
    spec: BatchSpec, form: LineForm, segment: EndedSegment, number: int
) -> tuple[bool, bytes]:
    """Return whether a line has a result, and its line in the output."""
    line = json.loads(segment.lines[number - segment.first])
    job_id, end = line_id(spec.id, number), parse_end(segment.ends[number])
    assert end is not None, "the step has read it"
    outcome = _outcome_of(end, spec)
    about = partial(line_record, spec, job_id, line["custom_id"], end.model or spec.model)
    if outcome.status is JobStatus.SUCCEEDED:
        try:
            shown = await form.result_line(spec, line, job_id, about(outcome))
            return True, encode_any_json(shown) + b"\n"
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001 - a defect must not stop the batch
            _log.exception("job %s: its result cannot be written to the output", job_id)
            outcome = JobOutcome.failed(LOST, outcome.at)
    shown = form.error_line(spec, line, job_id, about(outcome))
    return False, encode_any_json(shown) + b"\n"


def _outcome_of(end: LineEnd, spec: BatchSpec) -> JobOutcome:
    try:
        return outcome_from_json(end.outcome)
    except (ContractError, ValueError):
        return JobOutcome.failed(LOST, spec.deadline_at)


@dataclass(slots=True)
class _Output:
    """Appends lines to a blob in which this segment begins at `start`, each line once."""

    blobs: Blobs
    blob: str
    start: int
    position: int = -1
    appended: int = 0
    """How many of the segment's lines the blob has, before `position`."""
    skipped: int = 0
    """How many of the lines to come the blob has."""
    waiting: list[bytes] = field(default_factory=list)
    waiting_bytes: int = 0

    def __post_init__(self) -> None:
        self.position = self.start

    async def add(self, line: bytes) -> None:
        """Append a line, with its line end, now or at the next flush."""
        if self.skipped:
            self.skipped -= 1
            return
        self.waiting.append(line)
        self.waiting_bytes += len(line)
        if self.waiting_bytes >= FLUSH_BYTES:
            await self.flush()

    async def flush(self) -> int:
        """Append the lines that wait; return the length of the blob."""
        while self.waiting:
            data = b"".join(self.waiting)
            if await self.blobs.append_at(self.blob, self.position, data):
                self.position += len(data)
                self.appended += len(self.waiting)
                self.waiting.clear()
            else:
                await self._catch_up()
        self.waiting_bytes = 0
        return self.position

    async def _catch_up(self) -> None:
        count, position = 0, self.start
        while data := await self.blobs.read_from(self.blob, position, MAX_READ_BYTES):
            count += data.count(b"\n")
            position += len(data)
        there = count - self.appended
        if there <= 0:
            raise Unavailable("blobs", f"the blob {self.blob} has lost lines")
        self.position, self.appended = position, count
        self.skipped = max(0, there - len(self.waiting))
        del self.waiting[:there]
