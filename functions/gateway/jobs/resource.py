"""The job as callers see it, and how an ended job answers a caller who waited for it."""

from typing import Any, Final

from contract.messages import FailureCode
from contract.names import job_path
from contract.status import JobStatus
from gateway import problems
from gateway.jobs.record import Record
from gateway.problems import Kind, Problem

_FAILURES: Final[dict[str, Kind]] = {
    FailureCode.INVALID_INPUT: problems.INVALID_INPUT,
    # 422, not 415: the request was in order, the model could not read what was in it.
    FailureCode.UNSUPPORTED_MEDIA_TYPE: problems.INVALID_INPUT,
    FailureCode.DEAD_LETTERED: problems.DEAD_LETTERED,
    FailureCode.UNAVAILABLE: problems.UNAVAILABLE,
}


def result_path(job_id: str) -> str:
    """Path of a job's result alone."""
    return f"{job_path(job_id)}/result"


def job_resource(job_id: str, record: Record) -> dict[str, Any]:
    """The job object: the same from submit, GET and DELETE.

    `result` is the result itself where that is JSON and small; any other is at `links.result`.
    """
    path = job_path(job_id)
    result = record["result"] or {}
    return {
        "id": job_id,
        "model": record["model"],
        "status": record["status"],
        "created_at": record["created_at"],
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
        "deadline": record["deadline"],
        "attempt": record["attempt"],
        "progress": record.get("progress"),
        "queue": {"position": None, "eta_seconds": None, "phase": None},
        "result": result.get("json"),
        "error": record["error"],
        "timing": record["timing"],
        "trace_id": record["trace_id"],
        "links": {"self": path, "result": result_path(job_id), "cancel": path},
    }


def failure(job: dict[str, Any], *, ran: bool | None = None) -> Problem | None:
    """The problem with which an ended job answers a caller who waited; None if it succeeded.

    `ran` tells whether the job reached a worker, where that is known though it has no start.
    """
    error = job["error"] or {}
    match job["status"]:
        case JobStatus.SUCCEEDED:
            return None
        case JobStatus.CANCELLED:
            kind, detail = problems.CANCELLED, "the job was cancelled before it had a result"
        case JobStatus.EXPIRED:
            kind, detail = problems.EXPIRED, error["message"]
        case _:
            kind = _FAILURES.get(error["code"], problems.INFERENCE_FAILED)
            detail = error["message"]
    about: dict[str, Any] = {
        "instance": job["links"]["self"],
        "attempt": job["attempt"],
        "trace_id": job["trace_id"],
    }
    if error:
        about |= {key: error[key] for key in ("retryable", "stage")}
    if kind is problems.EXPIRED:
        about["ran"] = ran if job["started_at"] is None else True
    return Problem(kind, detail, **about, job=job)
