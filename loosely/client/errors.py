"""The exceptions of the client.

LooselyError
├── GatewayUnreachable         no response; the gateway may have received the request
├── UnexpectedAnswer           the response is not in the format of a Loosely gateway
├── WaitTimedOut               the job did not end within the time to wait; the job continues
├── StreamRestarted            the job runs again: its earlier chunks count no more
├── BatchRefused               lines of the batch cannot be used, and none ran
└── Problem                    the gateway sent a problem document (RFC 9457)
    ├── RequestRefused         no job was made; also raised for codes unknown to this version
    │   ├── InvalidRequest     malformed-request, invalid-input, unsupported-media-type, …
    │   │   └── PayloadTooLarge    payload-too-large
    │   ├── AccessDenied       unauthenticated, forbidden
    │   ├── NotFound           unknown-model, unknown-job, not-found, …
    │   ├── IdempotencyMismatch    idempotency-mismatch
    │   ├── Overloaded         rate-limited, saturated, too-many-streams, …: try again later
    │   └── GatewayFailure     unavailable, internal-error
    └── JobEnded               a job was made, and it ended without a result
        ├── InputRejected      the model cannot use the input
        ├── JobFailed          inference-failed, dead-lettered, …
        ├── JobExpired         expired
        └── JobCancelled       cancelled
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Self

from loosely.client.resources import Job, JobBatch, decode_json

#: How many refused lines the text of an exception has.
_SHOWN_LINES: Final = 10


class LooselyError(Exception):
    """The base class of the client's exceptions.

    If a submit failed, another with the same ``idempotency_key`` returns its job if there is one.
    """

    job_id: str | None = None
    idempotency_key: str | None = None

    def __str__(self) -> str:
        text = super().__str__()
        if self.idempotency_key is not None:
            text += f"; the job may exist: submit it again with the key {self.idempotency_key}"
        return text if self.job_id is None or self.job_id in text else f"{text}; job {self.job_id}"


class GatewayUnreachable(LooselyError):
    """The gateway sent no complete response. It got no request if ``is_sent`` is false."""

    def __init__(self, url: str, reason: str, *, is_sent: bool = True) -> None:
        super().__init__(f"{url} cannot be reached: {reason}")
        self.url = url
        self.reason = reason
        self.is_sent = is_sent


class UnexpectedAnswer(LooselyError):
    """The response from ``url`` is not in the format of Loosely's API."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"{url} responded with HTTP status {status}, but {reason}")
        self.url = url
        self.status = status
        self.reason = reason


class WaitTimedOut(LooselyError, TimeoutError):
    """The job or batch ``job_id`` did not end within ``wait_seconds``. It continues."""

    def __init__(self, job_id: str, wait_seconds: float, what: str = "job") -> None:
        super().__init__(f"{what} {job_id} has not ended after {wait_seconds:g} s")
        self.job_id = job_id
        self.wait_seconds = wait_seconds


class StreamRestarted(LooselyError):
    """The job runs again. Drop all its chunks, and read on."""

    def __init__(self) -> None:
        super().__init__("the job runs again, so its earlier chunks count no more")


class BatchRefused(LooselyError):
    """The gateway refused lines of ``batch``, whose ``errors`` list up to 100 of them."""

    def __init__(self, batch: JobBatch) -> None:
        lines = [refused_line(each) for each in batch.errors[:_SHOWN_LINES]]
        more = len(batch.errors) - len(lines)
        super().__init__("\n".join([*lines, *([f"and {more} more"] if more else [])]))
        self.batch = batch


def refused_line(error: Mapping[str, Any]) -> str:
    """Return one of the ``errors`` of a batch as a text with the line's number and name."""
    name = error.get("custom_id")
    where = f"line {error['line']}" if error.get("line") else "the file"
    named = "" if name is None else f" ({name})"
    return f"{where}{named}: {error.get('code')}: {error.get('message')}"


class Problem(LooselyError):
    """The gateway responded with a problem document (RFC 9457).

    docs/reference/problems.md lists all values of ``code``. ``retryable`` says whether the same
    request may succeed later. ``attempt`` is the number, from 1, of the delivery that failed.
    ``job`` is the job if the problem describes how a job ended.
    """

    def __init__(
        self,
        status: int,
        document: Mapping[str, Any],
        body: bytes,
        *,
        retry_after_seconds: float | None = None,
        job: Job | None = None,
    ) -> None:
        self.status = status
        self.document = document
        self.body = body
        self.retry_after_seconds = retry_after_seconds
        self.job = job
        self.code = str(document["code"])
        self.title = str(document.get("title") or self.code)
        self.detail = str(document.get("detail") or self.title)
        self.retryable = document.get("retryable") is True
        self.stage: str | None = document.get("stage")
        self.attempt: int | None = document.get("attempt")
        self.trace_id: str | None = document.get("trace_id")
        super().__init__(f"{self.code}: {self.detail}")


class RequestRefused(Problem):
    """The gateway refused the request and made no job."""


class InvalidRequest(RequestRefused):
    """The request is invalid. The gateway would refuse the same request each time."""


class PayloadTooLarge(InvalidRequest):
    """The payload is larger than the model's limit for request bodies or for uploads."""

    @classmethod
    def over(cls, limit_bytes: int, size_bytes: int) -> Self:
        """Return the error for a payload that is not even sent, as the gateway would report it."""
        detail = f"the model accepts up to {limit_bytes} bytes; the input has {size_bytes}"
        return cls._made(413, detail, limit_bytes=limit_bytes)

    @classmethod
    def by_host(cls, size_bytes: int) -> Self:
        """Return the error for a body that the Functions host refused with an empty 500."""
        detail = (
            f"the gateway's host answered a body of {size_bytes} bytes with status 500 and no "
            "content, as it does if a body is larger than its setting "
            "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT; send the input as an upload"
        )
        return cls._made(500, detail)

    @classmethod
    def _made(cls, status: int, detail: str, **members: Any) -> Self:
        document = {
            "code": "payload-too-large",
            "title": "The payload is too large",
            "detail": detail,
            "retryable": False,
            "stage": "accept",
            **members,
        }
        return cls(status, document, json.dumps(document).encode())


class AccessDenied(RequestRefused):
    """The API key is missing or unknown, or does not permit the operation."""


class NotFound(RequestRefused):
    """The model, job, dead letter or path does not exist."""


class IdempotencyMismatch(RequestRefused):
    """The idempotency key was already used with a different request."""


class Overloaded(RequestRefused):
    """The rate limit is reached, or the queue or the gateway has too much work. Try again later."""


class GatewayFailure(RequestRefused):
    """The gateway has failed, or a service that the gateway needs has failed."""


class JobEnded(Problem):
    """The job ended without a result."""


class InputRejected(JobEnded):
    """The model cannot use the input."""


class JobFailed(JobEnded):
    """The model failed on the input, or all attempts to process the job failed."""


class JobExpired(JobEnded):
    """The job had no result when its deadline passed."""


class JobCancelled(JobEnded):
    """The job was cancelled."""


_KINDS: Final[Mapping[str, type[Problem]]] = {
    "malformed-request": InvalidRequest,
    "method-not-allowed": InvalidRequest,
    "unsupported-media-type": InvalidRequest,
    "invalid-input": InvalidRequest,
    "invalid-batch": InvalidRequest,
    "payload-too-large": PayloadTooLarge,
    "unauthenticated": AccessDenied,
    "forbidden": AccessDenied,
    "not-found": NotFound,
    "unknown-model": NotFound,
    "unknown-job": NotFound,
    "unknown-result": NotFound,
    "unknown-batch": NotFound,
    "unknown-dead-letter": NotFound,
    "idempotency-mismatch": IdempotencyMismatch,
    "rate-limited": Overloaded,
    "too-many-streams": Overloaded,
    "queue-limit": Overloaded,
    "gpu-seconds-exhausted": Overloaded,
    "too-many-batches": Overloaded,
    "saturated": Overloaded,
    "overloaded": Overloaded,
    "unavailable": GatewayFailure,
    "internal-error": GatewayFailure,
    "inference-failed": JobFailed,
    "dead-lettered": JobFailed,
    "expired": JobExpired,
    "cancelled": JobCancelled,
    "no-result": JobEnded,
}
_STATUS_ENDINGS: Final[Mapping[str, type[JobEnded]]] = {
    "expired": JobExpired,
    "cancelled": JobCancelled,
}
_INPUT_CODES: Final = frozenset({"invalid-input", "unsupported-media-type"})
_ENDING_HTTP_STATUS: Final[Mapping[type[JobEnded], int]] = {
    InputRejected: 422,
    JobCancelled: 409,
    JobExpired: 504,
}


def read_problem(status: int, body: bytes, retry_after_seconds: float | None) -> Problem | None:
    """Return the exception for an error response, or ``None`` if it is not a problem document."""
    document = decode_json(body)
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return None
    job, kind = None, _KINDS.get(document["code"], RequestRefused)
    if isinstance(document.get("job"), dict):
        job = Job.from_document(document["job"], json.dumps(document["job"]).encode())
    if job is not None:
        kind = _ending_class(job)
    return kind(status, document, body, retry_after_seconds=retry_after_seconds, job=job)


def ending_of(job: Job) -> JobEnded:
    """Return the exception for a job that has ended without a result."""
    kind = _ending_class(job)
    job_error = job.error or {}
    code = job_error.get("code")
    document = {
        **job_error,
        "code": code if isinstance(code, str) else job.status,
        "detail": job_error.get("detail") or job_error.get("message") or f"the job is {job.status}",
        "attempt": job.document.get("attempt"),
        "trace_id": job.trace_id,
        "job": job.document,
    }
    status = _ENDING_HTTP_STATUS.get(kind, 500)
    return kind(status, document, json.dumps(document).encode(), job=job)


def _ending_class(job: Job) -> type[JobEnded]:
    if job.status in _STATUS_ENDINGS:
        return _STATUS_ENDINGS[job.status]
    return InputRejected if (job.error or {}).get("code") in _INPUT_CODES else JobFailed
