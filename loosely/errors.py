"""What can go wrong between a caller and a job's result.

LooselyError
├── GatewayUnreachable         no answer came; whether the request arrived is unknown
├── UnexpectedAnswer           what answered does not speak Loosely's contract
├── WaitTimedOut               the caller's own patience is over; the job goes on
└── Problem                    the gateway said so, in a problem document (RFC 9457)
    ├── RequestRefused         nothing was accepted; also codes that this version does not know
    │   ├── InvalidRequest     malformed-request, invalid-input, unsupported-media-type, …
    │   │   └── PayloadTooLarge    payload-too-large
    │   ├── AccessDenied       unauthenticated, forbidden
    │   ├── NotFound           unknown-model, unknown-job, not-found, …
    │   ├── IdempotencyMismatch    idempotency-mismatch
    │   ├── Overloaded         rate-limited, saturated: later it may go
    │   └── GatewayFailure     unavailable, internal-error, streaming-unavailable
    └── JobEnded               a job was accepted and has ended without a result
        ├── InputRejected      the model cannot use the input
        ├── JobFailed          inference-failed, dead-lettered, …
        ├── JobExpired         expired
        └── JobCancelled       cancelled
"""

import json
from collections.abc import Mapping
from typing import Any, Final, Self

from loosely.job import Job, decode


class LooselyError(Exception):
    """The root of all that this package raises."""


class GatewayUnreachable(LooselyError):
    """No answer came from the gateway."""

    def __init__(self, url: str, reason: str) -> None:
        """``url`` is the gateway's, ``reason`` what the network said."""
        super().__init__(f"{url} cannot be reached: {reason}")
        self.url = url
        self.reason = reason


class UnexpectedAnswer(LooselyError):
    """The answer is not what Loosely's contract allows; ``status`` is its HTTP status."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        """``reason`` says what is wrong with the answer."""
        super().__init__(f"{url} answered {status}, but {reason}")
        self.url = url
        self.status = status
        self.reason = reason


class WaitTimedOut(LooselyError, TimeoutError):
    """The caller has waited enough; the job ``job_id`` goes on."""

    def __init__(self, job_id: str, wait_seconds: float) -> None:
        """``wait_seconds`` is how long the caller wanted to wait."""
        super().__init__(f"job {job_id} is not final after {wait_seconds:g} s")
        self.job_id = job_id
        self.wait_seconds = wait_seconds


class Problem(LooselyError):
    """A problem document: what happened (``detail``) under a stable ``code``.

    ``body`` holds the document as it was received, ``document`` decoded.
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
        """Take the members that RFC 9457 and the contract name from ``document``."""
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
    """The request was refused; no job came of it."""


class InvalidRequest(RequestRefused):
    """The request itself is wrong: the same again is refused again."""


class PayloadTooLarge(InvalidRequest):
    """The payload is over what the model takes, in this way or at all."""

    @classmethod
    def over(cls, limit_bytes: int, size_bytes: int) -> Self:
        """Return what the gateway would say, before all the bytes are sent to hear it."""
        document = {
            "code": "payload-too-large",
            "title": "The payload is too large",
            "detail": f"the model takes up to {limit_bytes} bytes, and these are {size_bytes}",
            "limit_bytes": limit_bytes,
            "retryable": False,
            "stage": "accept",
        }
        return cls(413, document, json.dumps(document).encode())


class AccessDenied(RequestRefused):
    """The API key is missing, wrong, or may not do this."""


class NotFound(RequestRefused):
    """There is no such model, job, dead letter or address."""


class IdempotencyMismatch(RequestRefused):
    """The idempotency key was used before, for another request."""


class Overloaded(RequestRefused):
    """The caller's rate is used up, or the queue is too long; later it may go."""


class GatewayFailure(RequestRefused):
    """The gateway, or what stands behind it, does not work now."""


class JobEnded(Problem):
    """The job reached a final status other than success."""


class InputRejected(JobEnded):
    """The model cannot use what was sent."""


class JobFailed(JobEnded):
    """The model failed, or no worker survived the job."""


class JobExpired(JobEnded):
    """The deadline passed first."""


class JobCancelled(JobEnded):
    """Somebody cancelled the job."""


_REFUSALS: Final[Mapping[str, type[RequestRefused]]] = {
    "malformed-request": InvalidRequest,
    "method-not-allowed": InvalidRequest,
    "unsupported-media-type": InvalidRequest,
    "invalid-input": InvalidRequest,
    "payload-too-large": PayloadTooLarge,
    "unauthenticated": AccessDenied,
    "forbidden": AccessDenied,
    "not-found": NotFound,
    "unknown-model": NotFound,
    "unknown-job": NotFound,
    "unknown-dead-letter": NotFound,
    "idempotency-mismatch": IdempotencyMismatch,
    "rate-limited": Overloaded,
    "saturated": Overloaded,
    "unavailable": GatewayFailure,
    "internal-error": GatewayFailure,
    "streaming-unavailable": GatewayFailure,
}
# A job that ended tells so by its own status first, and by these codes where it is not shown.
_ENDINGS: Final[Mapping[str, type[JobEnded]]] = {
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


def problem_from(status: int, body: bytes, retry_after_seconds: float | None) -> Problem | None:
    """Return the problem that ``body`` describes, or ``None`` when it describes none."""
    document = decode(body)
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return None
    job = None
    if isinstance(document.get("job"), dict):
        job = Job.from_document(document["job"], json.dumps(document["job"]).encode())
    code = document["code"]
    kind: type[Problem]
    if job is not None:
        kind = _ending_class(job)
    else:
        kind = _ENDINGS.get(code) or _REFUSALS.get(code, RequestRefused)
    return kind(status, document, body, retry_after_seconds=retry_after_seconds, job=job)


def ending_of(job: Job) -> JobEnded:
    """Return what a caller who waited at submit would have been told of this ended job."""
    kind = _ending_class(job)
    said = job.error or {}
    code = said.get("code")
    document = {
        **said,
        "code": code if isinstance(code, str) else job.status,
        "detail": said.get("detail") or said.get("message") or f"the job is {job.status}",
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
