"""What the gateway shows of its jobs, models and uploads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled", "expired"})


def decode(body: bytes) -> object:
    """Return what the JSON ``body`` holds, or ``None`` when it is no JSON that can be read."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its queue a job is; ``None`` is what the gateway does not say."""

    position: int | None = None
    eta_seconds: float | None = None
    phase: str | None = None


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
        """What the model returned, once the status is ``succeeded`` and where it is small JSON."""
        return self.document.get("result")

    @property
    def error(self) -> Mapping[str, Any] | None:
        """Why the job ended without a result."""
        return _object(self.document, "error")

    @property
    def timing(self) -> Mapping[str, Any]:
        """Where the time went, in milliseconds."""
        return _object(self.document, "timing") or {}

    @property
    def progress(self) -> Mapping[str, Any] | None:
        """How far a long-running model is, if it tells."""
        return _object(self.document, "progress")

    @property
    def place(self) -> Place:
        """Where in its queue the job is."""
        queue = _object(self.document, "queue") or {}
        position, eta, phase = (queue.get(key) for key in ("position", "eta_seconds", "phase"))
        return Place(
            position if isinstance(position, int) else None,
            eta if isinstance(eta, int | float) else None,
            phase if isinstance(phase, str) else None,
        )

    @property
    def trace_id(self) -> str | None:
        """The W3C trace that the job belongs to."""
        trace_id = self.document.get("trace_id")
        return trace_id if isinstance(trace_id, str) else None

    @property
    def created_at(self) -> datetime | None:
        """When the job was accepted."""
        return _moment(self.document.get("created_at"))

    @property
    def started_at(self) -> datetime | None:
        """When a worker began with it."""
        return _moment(self.document.get("started_at"))

    @property
    def finished_at(self) -> datetime | None:
        """When it became final."""
        return _moment(self.document.get("finished_at"))

    @property
    def deadline(self) -> datetime | None:
        """When nobody wants the result any more."""
        return _moment(self.document.get("deadline"))


@dataclass(frozen=True, slots=True)
class Result:
    """A job's result alone, in the model's own media type."""

    body: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first; ``next_cursor`` leads to the page after, if there is one."""

    jobs: tuple[Job, ...]
    next_cursor: str | None

    @classmethod
    def from_body(cls, body: bytes) -> Self | None:
        """Return the page in the JSON ``body``, or ``None`` when there is none."""
        document = decode(body)
        if not isinstance(document, dict) or not isinstance(document.get("jobs"), list):
            return None
        jobs = [Job.from_document(job, json.dumps(job).encode()) for job in document["jobs"]]
        cursor = document.get("next_cursor")
        return cls(
            tuple(job for job in jobs if job is not None),
            cursor if isinstance(cursor, str) and cursor else None,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the catalogue describes it; ``document`` holds everything."""

    name: str
    task: str
    media_types: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_document(cls, document: object) -> Self | None:
        """Return the model that ``document`` describes, or ``None`` when it describes none."""
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            return None
        types = document.get("media_types")
        return cls(
            document["name"],
            str(document.get("task") or ""),
            tuple(str(kind) for kind in types) if isinstance(types, list) else (),
            document,
        )

    @property
    def input_limit_bytes(self) -> int | None:
        """What a request's body may have; more goes by upload."""
        limit = (_object(self.document, "limits") or {}).get("input_bytes")
        return limit if isinstance(limit, int) else None


#: Members of an upload slot that name the address to put the bytes to, which is a secret.
_SECRETS: Final = frozenset({"url", "headers"})


@dataclass(frozen=True, slots=True)
class Upload:
    """An input that lies in the gateway's store; a job takes it by its ``reference``."""

    reference: str
    media_type: str
    size_bytes: int
    document: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an upload's bytes go: a short-lived address that can only be written to."""

    reference: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    max_bytes: int | None
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_body(cls, body: bytes) -> Self | None:
        """Return the slot in the JSON ``body``, or ``None`` when there is none."""
        document = decode(body)
        if not isinstance(document, dict):
            return None
        reference, url = document.get("upload"), document.get("url")
        if not (isinstance(reference, str) and isinstance(url, str)):
            return None
        headers = _object(document, "headers") or {}
        if not all(str(part).isascii() for header in headers.items() for part in header):
            return None
        public = {name: value for name, value in document.items() if name not in _SECRETS}
        limit = document.get("max_bytes")
        return cls(
            reference,
            url,
            {str(name): str(value) for name, value in headers.items()},
            limit if isinstance(limit, int) else None,
            public,
        )


def _object(document: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = document.get(name)
    return value if isinstance(value, dict) else None


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
