"""A job and its result, as the gateway shows them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled", "expired"})


def decode(body: bytes) -> object:
    """Return what the JSON ``body`` holds, or ``None`` when it is no JSON that can be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work.

    What callers steer by has a field; ``document`` holds everything, also what later
    gateways add, and ``body`` the same as it was received.
    """

    id: str
    model: str
    status: str
    document: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    #: How long the gateway asks to wait before the next question.
    retry_after_seconds: float | None = None

    @classmethod
    def from_document(
        cls, document: object, body: bytes, retry_after_seconds: float | None = None
    ) -> Self | None:
        """Return the job that ``document`` describes, or ``None`` when it describes none."""
        if not isinstance(document, dict):
            return None
        names = [document.get(key) for key in ("id", "model", "status")]
        match names:
            case [str(job_id), str(model), str(status)] if job_id:
                return cls(job_id, model, status, document, body, retry_after_seconds)
            case _:
                return None

    @classmethod
    def from_body(cls, body: bytes, retry_after_seconds: float | None = None) -> Self | None:
        """Return the job in the JSON ``body``, or ``None`` when there is none."""
        return cls.from_document(decode(body), body, retry_after_seconds)

    @property
    def is_final(self) -> bool:
        """Whether the status can no longer change."""
        return self.status in FINAL_STATUSES

    @property
    def result(self) -> Any:
        """What the model returned, once the status is ``succeeded``."""
        return self.document.get("result")

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Why the job ended without a result."""
        error = self.document.get("error")
        return error if isinstance(error, dict) else None

    @property
    def timing(self) -> Mapping[str, Any]:
        """Where the time went, in milliseconds."""
        timing = self.document.get("timing")
        return timing if isinstance(timing, dict) else {}


@dataclass(frozen=True, slots=True)
class Result:
    """A job's result alone, in the model's own media type."""

    body: bytes = field(repr=False)
    media_type: str
