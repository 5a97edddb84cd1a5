"""The outcome of a job: how it ended, recorded once in a blob before anything else happens.

    outcomes/<job id>   {"status", "at", "reply"?, "error"?, "started_at"?}

The blob is created with `If-None-Match: *`, so the first outcome wins: replies, cancellations,
dead letters and expiry all compete by this rule. Status, waiters and results read the blob. The
orchestration is told afterwards and ends with the same outcome. It is not the source of an answer,
because an event can reach it too early: the Azure Storage provider discards an event for an
instance whose history has not been saved yet.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contract.codec import (
    error_from_json,
    error_to_json,
    format_time,
    reply_from_json,
    reply_to_json,
)
from contract.fields import Fields, Json
from contract.messages import FailureCode, JobError, JobReply, Stage
from contract.names import outcome_blob
from contract.status import JobStatus
from gateway.errors import Unavailable
from gateway.storage.blobs import Blobs

LOST: Final = JobError(
    FailureCode.UNAVAILABLE,
    "the gateway lost track of the job; send it again",
    Stage.QUEUE,
    retryable=True,
)
EXPIRED: Final = JobError(
    FailureCode.EXPIRED, "the deadline passed before a reply came", Stage.QUEUE, retryable=True
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended, and when that was recorded, to the millisecond.

    `reply` is the worker's reply if it decided the outcome. Otherwise `error` says why the job
    failed, and `started_at` is when a cancelled job had started, as RFC 3339 text.
    """

    status: JobStatus
    at: datetime
    reply: JobReply | None = None
    error: JobError | None = None
    started_at: str | None = None

    def __post_init__(self) -> None:
        """Cut `at` to milliseconds, as the blob holds it, so that all readers see one time."""
        milliseconds = self.at.microsecond // 1000
        object.__setattr__(self, "at", self.at.replace(microsecond=milliseconds * 1000))

    @classmethod
    def replied(cls, reply: JobReply, now: datetime) -> "Outcome":
        """Return the outcome that a reply decides: succeeded, or failed with the reply's error."""
        has_failed = isinstance(reply.outcome, JobError)
        return cls(JobStatus.FAILED if has_failed else JobStatus.SUCCEEDED, now, reply=reply)

    @classmethod
    def cancelled(cls, now: datetime, started_at: str | None = None) -> "Outcome":
        """Return the outcome of a cancelled job."""
        return cls(JobStatus.CANCELLED, now, started_at=started_at)

    @classmethod
    def expired(cls, now: datetime) -> "Outcome":
        """Return the outcome of a job whose deadline passed before a reply."""
        return cls(JobStatus.EXPIRED, now, error=EXPIRED)

    @classmethod
    def failed(cls, error: JobError, now: datetime) -> "Outcome":
        """Return the outcome of a job that failed without a reply."""
        return cls(JobStatus.FAILED, now, error=error)


def outcome_to_json(outcome: Outcome) -> dict[str, Json]:
    """Return an outcome as JSON, without the members that it does not have."""
    value: dict[str, Json] = {"status": outcome.status.value, "at": format_time(outcome.at)}
    if outcome.reply is not None:
        value["reply"] = reply_to_json(outcome.reply)
    if outcome.error is not None:
        value["error"] = error_to_json(outcome.error)
    if outcome.started_at is not None:
        value["started_at"] = outcome.started_at
    return value


def outcome_from_json(value: Json) -> Outcome:
    """Read an outcome. Raises ContractError or ValueError if it is none."""
    fields = Fields(value)
    return Outcome(
        JobStatus(fields.text("status")),
        fields.time("at"),
        reply_from_json(fields.raw("reply")) if fields.has("reply") else None,
        error_from_json(fields.child("error")) if fields.has("error") else None,
        fields.optional_text("started_at"),
    )


class OutcomeStore:
    """The recorded outcomes of jobs, one blob each."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def find(self, job_id: str) -> Outcome | None:
        """Return the recorded outcome, or None if the job has none yet. Raises Unavailable."""
        note = await self._blobs.read(outcome_blob(job_id))
        return None if note is None else outcome_from_json(json.loads(note.data))

    async def record(self, job_id: str, outcome: Outcome) -> Outcome:
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
