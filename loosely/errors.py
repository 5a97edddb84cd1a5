"""What can go wrong between a caller and a job's result.

LooselyError
├── GatewayUnreachable     no answer came; whether the request arrived is unknown
├── UnexpectedAnswer       what answered does not speak Loosely's contract
└── Problem                the gateway said so, in a problem document (RFC 9457)
    ├── RequestRefused     nothing was accepted, or nothing of that name exists
    └── JobEnded           a job was accepted and has ended without a result
"""

import json
from collections.abc import Mapping
from typing import Any

from loosely.job import Job, decode

#: The codes of problems with which a job ends, besides those that carry the job itself.
_ENDINGS = frozenset({"inference-failed", "dead-lettered", "expired", "cancelled", "no-result"})


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


class JobEnded(Problem):
    """The job reached a final status other than success."""


def problem_from(status: int, body: bytes, retry_after_seconds: float | None) -> Problem | None:
    """Return the problem that ``body`` describes, or ``None`` when it describes none."""
    document = decode(body)
    if not isinstance(document, dict) or not isinstance(document.get("code"), str):
        return None
    job = None
    if isinstance(document.get("job"), dict):
        job = Job.from_document(document["job"], json.dumps(document["job"]).encode())
    ended = job is not None or document["code"] in _ENDINGS
    kind = JobEnded if ended else RequestRefused
    return kind(status, document, body, retry_after_seconds=retry_after_seconds, job=job)
