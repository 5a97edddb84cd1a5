"""The progress of running jobs, stored in one small blob for each job.

    {"report": {"attempt": 1, "sequence": 7, "started_at": …, "fraction": 0.4, "message": "…"},
     "cancelling": false}

A write succeeds only if the blob's ETag is still the one that was read, so no change is lost. The
orchestration does not receive the progress, because each event would cause a replay, and the SDK
keeps only one event of each name. Jobs have progress only if the catalogue entry of their model
contains `reports_progress = true`.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from contract.catalogue import Catalogue
from contract.errors import MalformedMessage
from contract.messages import Fields, Json, format_time
from contract.names import progress_blob
from gateway.errors import Unavailable
from gateway.jobs.model import (
    EXPIRED_WHILE_RUNNING,
    JobOutcome,
    JobStatus,
    Record,
    is_final,
)
from gateway.storage.blobs import Blobs

MAX_MESSAGE_CHARACTERS: Final = 500

# Three writers are possible at once: a worker, the worker of the next attempt, a cancellation.
_MAX_ATTEMPTS: Final = 4


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """A worker's report about a running job; `sequence` begins at 0 in each attempt.

    `fraction` is from 0 to 1, or None if the model does not report a fraction.
    """

    attempt: int
    sequence: int
    started_at: str
    fraction: float | None = None
    message: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of the report, which is greater for a later report."""
        return self.attempt, self.sequence


@dataclass(frozen=True, slots=True)
class ProgressState:
    """The stored progress of a job. `cancelling`: the worker was ordered to stop the job."""

    report: ProgressReport | None = None
    cancelling: bool = False

    def with_report(self, report: ProgressReport) -> "ProgressState":
        """Return the progress with `report`, unless it is not newer, or the job is cancelled."""
        if self.cancelling or (self.report is not None and report.order <= self.report.order):
            return self
        return replace(self, report=report)

    def with_stop_order(self) -> "ProgressState":
        """Return the progress with the order to stop."""
        return replace(self, cancelling=True)


NO_PROGRESS: Final = ProgressState()


class ProgressStore:
    """Stores the progress of each job in a blob of its own."""

    def __init__(self, blobs: Blobs, catalogue: Catalogue) -> None:
        self._blobs = blobs
        self._catalogue = catalogue

    async def read(self, job_id: str) -> ProgressState:
        """Return the job's progress; NO_PROGRESS before its first report."""
        blob = await self._blobs.read(progress_blob(job_id))
        return NO_PROGRESS if blob is None else _progress_from_json(blob.data)

    async def update(
        self, job_id: str, change: Callable[[ProgressState], ProgressState]
    ) -> ProgressState:
        """Change the stored progress of a job; return the new progress.

        If another process writes the progress at the same time, `change` is called again with it.
        Raises Unavailable if that happens during every attempt.
        """
        name = progress_blob(job_id)
        for _ in range(_MAX_ATTEMPTS):
            blob = await self._blobs.read(name)
            before = NO_PROGRESS if blob is None else _progress_from_json(blob.data)
            after = change(before)
            if after == before:
                return before
            data = json.dumps(asdict(after)).encode()
            written = await (
                self._blobs.create(name, data)
                if blob is None
                else self._blobs.replace(name, data, blob.etag)
            )
            if written is not None:
                return after
        raise Unavailable(
            "blobs",
            f"the blob {name} could not be updated: other processes changed it during each of "
            f"{_MAX_ATTEMPTS} attempts",
        )

    async def add_to(self, job_id: str, record: Record) -> Record:
        """Return the record with the job's progress added, if the model reports it.

        If the storage does not respond, the record of an ended job is returned unchanged.
        """
        if not self.is_reported(record["model"]) or (
            is_final(record) and record["started_at"] is not None
        ):
            return record
        try:
            return apply_progress(record, await self.read(job_id))
        except Unavailable:
            if not is_final(record):
                raise
            return record

    async def add_to_if_available(self, job_id: str, record: Record) -> Record:
        """Return the record, with the job's progress if the storage responds.

        For a request that has changed the job, because its response must then not be an error.
        """
        try:
            return await self.add_to(job_id, record)
        except Unavailable:
            return record

    async def order_stop(self, job_id: str, model: str) -> str | None:
        """Order the worker of a running job to stop it; return the job's start time.

        Returns None if the job has not started, or its model does not report progress. The worker
        gets the order in the response to its next report. Call this before the event `cancel` is
        raised, or the order is lost if the process dies after the event.
        """
        if not self.is_reported(model):
            return None
        progress = await self.update(
            job_id, lambda found: found.with_stop_order() if found.report else found
        )
        return progress.report.started_at if progress.report else None

    async def read_if_reported(self, job_id: str, model: str) -> ProgressState:
        """Return the job's progress; NO_PROGRESS if its model does not report progress."""
        return await self.read(job_id) if self.is_reported(model) else NO_PROGRESS

    async def outcome_at_deadline(self, job_id: str, model: str, now: datetime) -> JobOutcome:
        """Return the outcome of a job whose deadline has passed.

        If the model does not report progress, an expired job's error has the stage `queue`,
        although the job may be running. Raises Unavailable if the blob storage fails.
        """
        found = await self.read_if_reported(job_id, model)
        if found.report is None:
            return JobOutcome.expired(now)
        if found.cancelling:
            return JobOutcome.cancelled(now, found.report.started_at)
        return JobOutcome.expired(now, EXPIRED_WHILE_RUNNING)

    def is_reported(self, model: str) -> bool:
        """Return whether this model reports progress."""
        found = self._catalogue.get(model)
        return found is not None and found.reports_progress


def report_from_json(value: Json) -> ProgressReport:
    """Convert a JSON value to a worker's progress report. Raises ContractError."""
    fields = Fields(value)
    fraction = fields.number("fraction") if fields.has("fraction") else None
    if fraction is not None and fraction > 1:
        raise MalformedMessage("fraction: expected a number from 0 to 1")
    message = fields.optional_text("message")
    if message is not None and len(message) > MAX_MESSAGE_CHARACTERS:
        raise MalformedMessage(f"message: expected at most {MAX_MESSAGE_CHARACTERS} characters")
    return ProgressReport(
        attempt=fields.integer("attempt", minimum=1),
        sequence=fields.integer("sequence"),
        started_at=format_time(fields.time("started_at")),
        fraction=fraction,
        message=message,
    )


def apply_progress(record: Record, progress: ProgressState) -> Record:
    """Return the record with this progress added.

    A final record gets only `started_at`, `attempt` and `ran`: whether a worker had started the
    job.
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
        status = JobStatus.RUNNING
        found |= {
            "started_at": report.started_at,
            "attempt": report.attempt,
            "progress": {"fraction": report.fraction, "message": report.message},
        }
    if progress.cancelling:
        status = JobStatus.CANCELLING
    return {**found, "status": status.value}


def _progress_from_json(data: bytes) -> ProgressState:
    value = json.loads(data)
    report = value["report"]
    return ProgressState(None if report is None else ProgressReport(**report), value["cancelling"])
