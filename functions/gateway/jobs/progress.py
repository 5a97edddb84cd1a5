"""How far a running job is: one small blob a job, for models that report.

    {"report": {"attempt": 1, "sequence": 7, "started_at": …, "fraction": 0.4, "message": "…"},
     "cancelling": false}

Each change is conditional on the ETag that was read, so that of two the later one sees the other.
The orchestration knows nothing of it: an event for each step would cost a turn of replay, and the
SDK keeps one slot for each event name.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final

from contract.codec import format_time
from contract.errors import MalformedMessage
from contract.fields import Fields, Json
from contract.names import progress_blob
from contract.status import JobStatus, change
from gateway.errors import Unavailable
from gateway.jobs.record import Record, is_final
from gateway.storage.blobs import Blobs

MAX_MESSAGE_CHARACTERS: Final = 500

# Only a worker's report, its successor's and a cancellation can meet, so a fourth try is one more
# than there are rivals.
_TRIES: Final = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells of a running job.

    Reports are ordered by attempt, then by `sequence`, which counts from 0 in each attempt.
    `fraction` is from 0 to 1, or None where the model cannot tell.
    """

    attempt: int
    sequence: int
    started_at: str
    fraction: float | None = None
    message: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in the order of reports."""
        return self.attempt, self.sequence


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known of a job that has not ended: the newest report, and whether it shall stop."""

    report: Report | None = None
    cancelling: bool = False

    def told(self, report: Report) -> "Progress":
        """With this report, unless it is no newer than what is known, or comes too late."""
        if self.cancelling or (self.report is not None and report.place <= self.report.place):
            return self
        return replace(self, report=report)

    def cancelled(self) -> "Progress":
        """To be stopped."""
        return replace(self, cancelling=True)


NOTHING: Final = Progress()


class ProgressStore:
    """The progress of jobs, kept in blobs."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def read(self, job_id: str) -> Progress:
        """What is known; NOTHING before the first report. Raises Unavailable."""
        note = await self._blobs.read(progress_blob(job_id))
        return NOTHING if note is None else _decoded(note.data)

    async def update(self, job_id: str, move: Callable[[Progress], Progress]) -> Progress:
        """Change what is known, whatever others do meanwhile; returns what is known now."""
        blob = progress_blob(job_id)
        for _ in range(_TRIES):
            note = await self._blobs.read(blob)
            before = NOTHING if note is None else _decoded(note.data)
            after = move(before)
            if after == before:
                return before
            data = _encoded(after)
            written = await (
                self._blobs.create(blob, data)
                if note is None
                else self._blobs.replace(blob, data, note.etag)
            )
            if written is not None:
                return after
        raise Unavailable("blobs", f"{blob} changes too fast")


def report_from_json(value: Json) -> Report:
    """Read a worker's report; ContractError where it is none."""
    fields = Fields(value)
    fraction = fields.number("fraction") if fields.has("fraction") else None
    if fraction is not None and fraction > 1:
        raise MalformedMessage("fraction: expected a number from 0 to 1")
    message = fields.optional_text("message")
    if message is not None and len(message) > MAX_MESSAGE_CHARACTERS:
        raise MalformedMessage(f"message: expected up to {MAX_MESSAGE_CHARACTERS} characters")
    return Report(
        attempt=fields.integer("attempt", minimum=1),
        sequence=fields.integer("sequence"),
        started_at=format_time(fields.time("started_at")),
        fraction=fraction,
        message=message,
    )


def seen(record: Record, progress: Progress) -> Record:
    """The record with what its worker has told since.

    A final record gains only its start and, under `ran`, whether there was one.
    """
    report = progress.report
    if is_final(record):
        found = {**record, "ran": report is not None or record["started_at"] is not None}
        if report is not None and record["started_at"] is None:
            found |= {"started_at": report.started_at, "attempt": report.attempt}
        return found
    status = JobStatus(record["status"])
    found = dict(record)
    if report is not None:
        status = change(status, JobStatus.RUNNING)
        found |= {
            "started_at": report.started_at,
            "attempt": report.attempt,
            "progress": {"fraction": report.fraction, "message": report.message},
        }
    if progress.cancelling:
        status = change(status, JobStatus.CANCELLING)
    return {**found, "status": status.value}


def _encoded(progress: Progress) -> bytes:
    report = {} if progress.report is None else asdict(progress.report)
    return json.dumps({"report": report or None, "cancelling": progress.cancelling}).encode()


def _decoded(data: bytes) -> Progress:
    value = json.loads(data)
    report = value["report"]
    return Progress(None if report is None else Report(**report), value["cancelling"])
