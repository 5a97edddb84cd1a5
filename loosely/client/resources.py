"""The resources that the gateway returns: jobs, results, timelines, batches, models, and so on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, Self

from loosely.client.media import is_json

_MAX_NUMBER: Final = 1e15

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled", "expired"})


def decode_json(body: bytes) -> object:
    """Return the value of the JSON text ``body``, or ``None`` if it is not valid JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a job in its model's queue, and its estimated wait, as far as they are known.

    ``phase`` is ``cold_starting`` while a worker starts, ``model_broken``, ``share`` while the job
    waits for its tenant's share, or else ``queued``. With ``share``, the position is among the jobs
    of the tenant.
    """

    position: int | None = None
    eta_seconds: float | None = None
    phase: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest report of a running job: a fraction from 0 to 1 and a text; each may be absent."""

    fraction: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class JobDurations:
    """How long a job waited, ran in its batch, and took in total, as far as it is known."""

    queued_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job, as a response of the gateway reports it: ``document`` has all members of ``body``."""

    id: str
    model: str
    status: str
    document: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)
    #: How many seconds the gateway asks to wait before the next request.
    retry_after_seconds: float | None = None
    #: A JSON result that is too large for ``document``, if the client has fetched it.
    large_result: Any = field(default=None, repr=False)
    #: The same for named results, by name.
    large_results: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_document(
        cls, document: object, body: bytes, retry_after_seconds: float | None = None
    ) -> Self | None:
        """Return the job that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document, dict):
            return None
        match [document.get(key) for key in ("id", "model", "status")]:
            case [str(job_id), str(model), str(status)] if job_id:
                return cls(job_id, model, status, document, body, retry_after_seconds)
        return None

    @property
    def version(self) -> str | None:
        """The version of the model that runs the job, or ``None`` if it is not reported."""
        return _text(self.document, "version")

    @property
    def is_final(self) -> bool:
        """Whether the job has ended. After that, its status never changes."""
        return self.status in FINAL_STATUSES

    @property
    def result(self) -> Any:
        """The model's result, or ``None`` if it is neither JSON nor text, or too large.

        Only ``run`` and ``wait`` fetch JSON of over 24 KiB. ``Client.result`` gets any result.
        """
        found = self.document.get("result")
        return self.large_result if found is None else found

    @property
    def results(self) -> dict[str, Any]:
        """The JSON values of the named results by name; ``None`` if not JSON or too large."""
        return {
            name: self.large_results.get(name, each.get("json"))
            for name, each in self._named_results()
        }

    @property
    def result_media_types(self) -> dict[str, str]:
        """The media types of the named results by name."""
        return {name: str(each.get("media_type")) for name, each in self._named_results()}

    @property
    def large_json_results(self) -> tuple[str, ...]:
        """The names of the JSON results that are too large for ``document``."""
        return tuple(
            name
            for name, each in self._named_results()
            if "json" not in each and is_json(str(each.get("media_type")))
        )

    def _named_results(self) -> list[tuple[str, Mapping[str, Any]]]:
        found = _object(self.document, "results") or {}
        return [(name, each) for name, each in found.items() if isinstance(each, dict)]

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The error with which the job ended, or ``None`` if it did not end with an error."""
        return _object(self.document, "error")

    @property
    def timing(self) -> JobDurations:
        """The duration of each stage of the job."""
        timing = _object(self.document, "timing") or {}
        return JobDurations(
            _number(timing, "queued_ms"),
            _number(timing, "inference_ms"),
            _number(timing, "total_ms"),
            _whole(timing, "batch_size"),
        )

    @property
    def progress(self) -> Progress | None:
        """The latest progress report of the job, or ``None`` if there is no report."""
        progress = _object(self.document, "progress")
        if progress is None:
            return None
        return Progress(_number(progress, "fraction"), _text(progress, "message"))

    @property
    def place(self) -> Place:
        """The job's position in its model's queue, and its estimated wait."""
        queue = _object(self.document, "queue") or {}
        return Place(
            _whole(queue, "position"), _number(queue, "eta_seconds"), _text(queue, "phase")
        )

    @property
    def label(self) -> str | None:
        """The text that the caller gave the job, or ``None`` if the job has no label."""
        return _text(self.document, "label")

    @property
    def batch(self) -> str | None:
        """The id of the batch of which the job is a line, or ``None``."""
        return _text(self.document, "batch")

    @property
    def custom_id(self) -> str | None:
        """The name of the line of a batch, or ``None`` if the job is no line."""
        return _text(self.document, "custom_id")

    @property
    def tenant(self) -> str | None:
        """The owner of the job, or ``None`` if the gateway does not show it to this caller."""
        return _text(self.document, "tenant")

    @property
    def trace_id(self) -> str | None:
        """The id of the job's W3C trace, or ``None`` if the gateway does not report it."""
        return _text(self.document, "trace_id")

    @property
    def created_at(self) -> datetime | None:
        """The time at which the gateway accepted the job, or ``None`` if it is not reported."""
        return _datetime(self.document.get("created_at"))

    @property
    def started_at(self) -> datetime | None:
        """The time at which a worker started the job, or ``None`` if no worker has started it."""
        return _datetime(self.document.get("started_at"))

    @property
    def finished_at(self) -> datetime | None:
        """The time at which the job ended, or ``None`` if it has not ended."""
        return _datetime(self.document.get("finished_at"))

    @property
    def deadline(self) -> datetime | None:
        """The time at which the job expires, or ``None`` if it is not reported."""
        return _datetime(self.document.get("deadline"))


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a job. ``kind`` is ``status``, ``progress`` or, for the last event, ``final``."""

    kind: str
    job: Job


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job's stream.

    ``kind`` is ``chunk``, ``progress``, ``attempt`` or, if events could not be stored,
    ``stream_lost``. ``data`` of a chunk is the text or the JSON value that the model has emitted,
    and of progress an object with ``fraction`` and ``message``.
    """

    kind: str
    data: Any
    id: str | None = None

    @property
    def attempt(self) -> int:
        """The attempt of the job that made the event, from 1."""
        return int((self.id or "1").partition("-")[0])


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """A step of a job. The durations of all steps add up to ``total_ms`` of the timeline.

    ``duration_ms`` is the time since the previous step, ``share`` its fraction of ``total_ms``, and
    ``delivery`` the number of the delivery to a worker. If ``is_beside``, the job did not wait for
    the step. If ``is_adjusted``, its time was corrected, because clocks differ.
    """

    name: str
    at: datetime | None
    duration_ms: float
    share: float
    delivery: int | None = None
    is_beside: bool = False
    is_adjusted: bool = False


@dataclass(frozen=True, slots=True)
class TimelineDelivery:
    """One delivery of a job to a worker, as far as it is known.

    ``state`` is ``answered``, ``completed``, ``returned``, ``abandoned``, ``dead-lettered``,
    ``lost`` or ``running``. ``reached`` is the last step that is known, and ``code`` the worker's
    error code. Only operators get the ``traceback`` of an unexpected error.
    """

    number: int
    state: str
    worker: str | None = None
    device: str | None = None
    batch_size: int | None = None
    received_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    reached: str | None = None
    code: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """How long each step of a job took. ``document`` is the whole JSON object, ``body`` its text.

    ``total_ms`` is the time from the job's acceptance to its end, or until the gateway responded.
    """

    job_id: str
    model: str
    status: str
    total_ms: float
    document: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], body: bytes) -> Self | None:
        """Return the timeline that ``document`` describes, or ``None`` if it is invalid."""
        total_ms = _number(document, "total_ms")
        match [document.get(key) for key in ("id", "model", "status")]:
            case [str(job_id), str(model), str(status)] if total_ms is not None:
                return cls(job_id, model, status, total_ms, document, body)
        return None

    @property
    def steps(self) -> tuple[TimelineStep, ...]:
        """The steps of the job, in the order in which the gateway lists them."""
        return tuple(
            TimelineStep(
                str(step.get("name")),
                _datetime(step.get("at")),
                _number(step, "duration_ms") or 0.0,
                _number(step, "share") or 0.0,
                _whole(step, "delivery"),
                step.get("is_beside") is True,
                step.get("is_adjusted") is True,
            )
            for step in _objects(self.document, "steps")
        )

    @property
    def deliveries(self) -> tuple[TimelineDelivery, ...]:
        """The deliveries of the job to workers."""
        return tuple(
            TimelineDelivery(
                _whole(each, "number") or 1,
                str(each.get("state")),
                _text(each, "worker"),
                _text(each, "device"),
                _whole(each, "batch_size"),
                _datetime(each.get("received_at")),
                _datetime(each.get("ended_at")),
                _number(each, "duration_ms"),
                _text(each, "reached"),
                _text(each, "code"),
                _text(each, "traceback"),
            )
            for each in _objects(self.document, "deliveries")
        )

    @property
    def clock_skew(self) -> tuple[Mapping[str, Any], ...]:
        """The clocks that differ: each with ``clock``, ``worker`` and ``ahead_ms``."""
        return _objects(self.document, "clock_skew")

    @property
    def webhook(self) -> Mapping[str, Any] | None:
        """The delivery log of the job's webhook, or ``None`` if the job has no webhook."""
        return _object(self.document, "webhook")

    @property
    def trace_id(self) -> str | None:
        """The id of the job's W3C trace, or ``None`` if the gateway does not report it."""
        return _text(self.document, "trace_id")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job, in the model's media type."""

    body: bytes = field(repr=False)
    media_type: str

    def json(self) -> Any:
        """Return the parsed result, or ``None`` if the result is not JSON."""
        return decode_json(self.body) if is_json(self.media_type) else None


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a list of jobs, newest first. ``next_cursor`` is ``None`` on the last page.

    This page and the earlier ones have all matching jobs since ``searched_back_to``.
    """

    jobs: tuple[Job, ...]
    next_cursor: str | None
    searched_back_to: datetime | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the page that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document.get("jobs"), list):
            return None
        jobs = [Job.from_document(job, json.dumps(job).encode()) for job in document["jobs"]]
        cursor = document.get("next_cursor")
        return cls(
            tuple(job for job in jobs if job is not None),
            cursor if isinstance(cursor, str) and cursor else None,
            _datetime(document.get("searched_back_to")),
        )


@dataclass(frozen=True, slots=True)
class LineCounts:
    """How many lines a batch has, and how many are in each state.

    ``total`` is 0 until the lines are checked. ``waiting`` lines were not sent yet, and ``running``
    ones are in the model's queue or at a worker.
    """

    total: int = 0
    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        """How many lines have ended."""
        return self.succeeded + self.failed + self.expired + self.cancelled


@dataclass(frozen=True, slots=True)
class JobBatch:
    """A batch, as the gateway reports it: ``document`` has all members of ``body``.

    ``status`` is ``validating``, ``running`` or ``cancelling``, and at the end ``succeeded`` (even
    if lines failed), ``failed`` (the lines were refused), ``cancelled`` or ``expired``.
    """

    id: str
    model: str
    status: str
    document: Mapping[str, Any] = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    def from_document(cls, document: object, body: bytes) -> Self | None:
        """Return the batch that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document, dict):
            return None
        match [document.get(key) for key in ("id", "model", "status")]:
            case [str(batch_id), str(model), str(status)] if batch_id:
                return cls(batch_id, model, status, document, body)
        return None

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended. After that, its status never changes."""
        return self.status in FINAL_STATUSES

    @property
    def counts(self) -> LineCounts:
        """How many lines are in each state."""
        counts = _object(self.document, "counts") or {}
        return LineCounts(*(_whole(counts, each.name) or 0 for each in fields(LineCounts)))

    @property
    def rate_per_second(self) -> float | None:
        """How many lines end in a second, or ``None`` if it is not known."""
        return _number(_object(self.document, "estimate") or {}, "rate_per_second")

    @property
    def eta_seconds(self) -> float | None:
        """After how many seconds the batch will probably have ended, if it is known."""
        return _number(_object(self.document, "estimate") or {}, "eta_seconds")

    @property
    def errors(self) -> tuple[Mapping[str, Any], ...]:
        """Why the lines were refused: up to 100, each with ``line``, ``code`` and ``message``."""
        return _objects(self.document, "errors")

    @property
    def error_codes(self) -> dict[str, int]:
        """How many lines ended with each error code."""
        codes = _object(self.document, "error_codes") or {}
        return {name: count for name, count in codes.items() if isinstance(count, int)}

    @property
    def label(self) -> str | None:
        """The text that the caller gave the batch, or ``None``."""
        return _text(self.document, "label")

    @property
    def created_at(self) -> datetime | None:
        """The time at which the gateway accepted the batch."""
        return _datetime(self.document.get("created_at"))

    @property
    def finished_at(self) -> datetime | None:
        """The time at which the batch ended, or ``None`` if it has not ended."""
        return _datetime(self.document.get("finished_at"))

    @property
    def deadline(self) -> datetime | None:
        """The time at which the batch expires."""
        return _datetime(self.document.get("deadline"))


@dataclass(frozen=True, slots=True)
class BatchPage:
    """One page of a list of batches, newest first."""

    batches: tuple[JobBatch, ...]
    next_cursor: str | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the page that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document.get("batches"), list):
            return None
        batches = [
            JobBatch.from_document(each, json.dumps(each).encode()) for each in document["batches"]
        ]
        return cls(
            tuple(batch for batch in batches if batch is not None),
            _text(document, "next_cursor") or None,
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's settings, jobs and seconds on devices: ``document`` has all members.

    ``share`` is the tenant's part of the models that it uses now, from 0 to 1. ``waiting`` jobs
    include those that are ``held`` for their share. An unknown value is ``None``.
    """

    name: str
    share: float | None
    waiting: int | None
    held: int | None
    running: int | None
    gpu_seconds_hour: float
    gpu_seconds_day: float
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_document(cls, document: object) -> Self | None:
        """Return the tenant that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document, dict) or not isinstance(document.get("tenant"), str):
            return None
        return cls(
            document["tenant"],
            _number(document, "share"),
            _whole(document, "waiting"),
            _whole(document, "held"),
            _whole(document, "running"),
            _number(document, "gpu_seconds_hour") or 0.0,
            _number(document, "gpu_seconds_day") or 0.0,
            document,
        )

    @classmethod
    def list_from_document(cls, document: Mapping[str, Any]) -> tuple[Self, ...] | None:
        """Return the tenants that ``document`` lists, or ``None`` if it is no list of tenants."""
        if not isinstance(document.get("tenants"), list):
            return None
        return tuple(filter(None, map(cls.from_document, document["tenants"])))

    @property
    def settings(self) -> Mapping[str, float | None]:
        """The weight and the limits that apply. A limit that is ``None`` does not exist."""
        return _object(self.document, "settings") or {}

    @property
    def own_settings(self) -> Mapping[str, float | None] | None:
        """The settings that were set for this tenant, or ``None`` if it has no own ones."""
        return _object(self.document, "given")


@dataclass(frozen=True, slots=True)
class TenantChange:
    """A change of a tenant's own settings, which are ``None`` before the first and after a reset.

    ``by`` is the name of the API key.
    """

    at: datetime
    by: str
    tenant: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def list_from_document(cls, document: Mapping[str, Any]) -> tuple[Self, ...] | None:
        """Return the changes that ``document`` lists, or ``None`` if it is no list of changes."""
        if not isinstance(document.get("changes"), list):
            return None
        return tuple(
            cls(
                at,
                _text(each, "by") or "",
                _text(each, "tenant") or "",
                _object(each, "before"),
                _object(each, "after"),
                each,
            )
            for each in _objects(document, "changes")
            if (at := _datetime(each.get("at"))) is not None
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the gateway describes it. ``document`` is the whole description."""

    name: str
    task: str
    media_types: tuple[str, ...]
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_document(cls, document: object) -> Self | None:
        """Return the model that ``document`` describes, or ``None`` if it is invalid."""
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            return None
        types = document.get("media_types")
        return cls(
            document["name"],
            str(document.get("task") or ""),
            tuple(str(kind) for kind in types) if isinstance(types, list) else (),
            document,
        )

    @classmethod
    def list_from_document(cls, document: Mapping[str, Any]) -> tuple[Self, ...] | None:
        """Return the models that ``document`` lists, or ``None`` if it is no list of models."""
        listed = document.get("models")
        if not isinstance(listed, list):
            return None
        return tuple(model for one in listed if (model := cls.from_document(one)))

    @property
    def input_limit_bytes(self) -> int | None:
        """The largest input, in bytes, that is not uploaded, or ``None`` if it is not reported."""
        limit = (_object(self.document, "limits") or {}).get("input_bytes")
        return limit if isinstance(limit, int) else None


#: Members of an upload target that are secret, because they permit writing to its URL.
_SECRET_MEMBERS: Final = frozenset({"url", "headers"})


@dataclass(frozen=True, slots=True)
class Upload:
    """An input in the gateway's blob storage. Pass this object to `submit` or `run`."""

    reference: str
    media_type: str
    size_bytes: int
    document: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadTarget:
    """A short-lived URL to which one input can be uploaded. ``document`` contains no secret."""

    reference: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    max_bytes: int | None
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self | None:
        """Return the target that ``document`` describes, or ``None`` if it is invalid."""
        reference, url = document.get("upload"), document.get("url")
        if not (isinstance(reference, str) and isinstance(url, str)):
            return None
        headers = _object(document, "headers") or {}
        if not all(str(part).isascii() for header in headers.items() for part in header):
            return None
        public = {name: value for name, value in document.items() if name not in _SECRET_MEMBERS}
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


def _objects(document: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    value = document.get(name)
    if not isinstance(value, list):
        return ()
    return tuple(each for each in value if isinstance(each, dict))


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) else None


def _number(document: Mapping[str, Any], name: str) -> float | None:
    """Return the member ``name``; ``None`` if it is not a number from 0 to ``_MAX_NUMBER``."""
    value = document.get(name)
    # The comparison is false for NaN.
    return float(value) if isinstance(value, int | float) and 0 <= value < _MAX_NUMBER else None


def _whole(document: Mapping[str, Any], name: str) -> int | None:
    value = document.get(name)
    return value if isinstance(value, int) else None


def _datetime(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None
