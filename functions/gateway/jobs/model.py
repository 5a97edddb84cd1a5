"""The data of a job: its status, ticket, outcome, record and resource.

    ticket     the input of the job's orchestration
    outcome    how and when the job ended; recorded once by `lifecycle`
    record     the state of the job, computed from its ticket and, if it has ended, its outcome
    resource   the JSON object that the API shows to callers

All functions but `add_text_result` are pure, because the orchestrator must be deterministic.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import Priority, split_name
from contract.errors import ContractError, PayloadCorrupt
from contract.media import essence
from contract.messages import (
    DeliveryMarks,
    FailureCode,
    Fields,
    InlineBytes,
    JobError,
    JobReply,
    JobRequest,
    Json,
    PayloadRef,
    Stage,
    error_from_json,
    error_to_json,
    format_time,
    marks_from_json,
    payload_from_json,
    payload_to_json,
    reply_from_json,
    reply_to_json,
    request_from_json,
    request_to_json,
)
from gateway import problems
from gateway.durable import InstanceSnapshot, RuntimeStatus
from gateway.errors import MissingPayload, Unavailable
from gateway.keys import OPEN_TENANT
from gateway.problems import HttpProblem, ProblemKind
from gateway.queues.estimates import JobQueue
from gateway.storage.payloads import PayloadStore
from gateway.telemetry import trace_id

TEXT_LIMIT_BYTES: Final = 64 * 1024
"""A text result with more bytes than this is not part of the job."""


class JobStatus(StrEnum):
    """The status of a job, as the API shows it to callers."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether a job in this status has ended."""
        return self not in {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLING}


TICKET_VERSION: Final = 2
"""The version of the tickets that this gateway writes. Version 1 has no member `version`."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The input of a job's orchestration.

    If `is_sent` is true, the job's message was sent before the start. Otherwise the ticket contains
    the whole request, and the orchestration sends the message. `outcome` is the job's outcome as
    JSON if the job ended before the start.

    `text` is the whole ticket as JSON text. The SDK gets this text and never a JSON object, because
    callers choose a part of the JSON. The SDK would turn an object with the members `__class__`,
    `__module__` and `__data__` into an instance of the named class.
    """

    text: str
    job_id: str
    model: str
    created_at: str
    deadline: str
    traceparent: str | None
    tenant: str = OPEN_TENANT
    webhook_url: str | None = field(default=None, repr=False)
    priority: Priority = Priority.NORMAL
    version: int = TICKET_VERSION
    is_sent: bool = False
    sent_at: str | None = None
    label: str | None = None
    outcome: Json = field(default=None, repr=False)
    parent: str | None = None
    stream: bool = False
    operation: str | None = None
    metadata: Mapping[str, str] | None = None
    is_background: bool = False
    batch: str | None = None
    custom_id: str | None = None

    def request(self) -> JobRequest:
        """Return the job's request, without a reply URL, unless its message was sent."""
        return request_from_json(json.loads(self.text)["request"])


def write_ticket(  # noqa: PLR0913 - the parts of a ticket
    request: JobRequest,
    traceparent: str | None,
    tenant: str = OPEN_TENANT,
    webhook_url: str | None = None,
    priority: Priority = Priority.NORMAL,
    *,
    sent_at: datetime | None = None,
    label: str | None = None,
    outcome: "JobOutcome | None" = None,
    parent: str | None = None,
    metadata: Mapping[str, str] | None = None,
    is_background: bool = False,
    custom_id: str | None = None,
) -> Ticket:
    """Return the ticket of a new job, which the history of its orchestration stores.

    The request must not have a reply URL, because this contains the reply token. If the message was
    sent, the ticket contains neither the input nor the parameters.
    """
    value: dict[str, Json] = {
        "version": TICKET_VERSION,
        "request": {
            "job_id": request.job_id,
            "model": request.model,
            "created_at": format_time(request.created_at),
            "deadline": format_time(request.deadline),
        }
        if sent_at is not None
        else request_to_json(request),
        "traceparent": traceparent,
        "tenant": tenant,
    }
    optional: dict[str, Json] = {
        "webhook_url": webhook_url,
        "priority": None if priority is Priority.NORMAL else priority.value,
        "sent": None if sent_at is None else True,
        "sent_at": None if sent_at is None else format_time(sent_at),
        "label": label,
        "outcome": None if outcome is None else outcome_to_json(outcome),
        "parent": parent,
        "stream": request.stream or None,
        "operation": request.operation,
        "metadata": dict(metadata) if metadata else None,
        "background": is_background or None,
        "batch": request.batch,
        "custom_id": custom_id,
    }
    value |= {name: each for name, each in optional.items() if each is not None}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ticket_from_json(text, value)


def read_ticket(text: str) -> Ticket:
    """Convert JSON text to a ticket. Raises ValueError, KeyError or TypeError."""
    return _ticket_from_json(text, json.loads(text))


def _ticket_from_json(text: str, value: Json) -> Ticket:
    request = value["request"]
    return Ticket(
        text=text,
        job_id=request["job_id"],
        model=request["model"],
        created_at=request["created_at"],
        deadline=request["deadline"],
        traceparent=value["traceparent"],
        tenant=value.get("tenant", OPEN_TENANT),
        webhook_url=value.get("webhook_url"),
        priority=Priority(value.get("priority", Priority.NORMAL)),
        version=value.get("version", 1),
        is_sent=value.get("sent", False),
        sent_at=value.get("sent_at"),
        label=value.get("label"),
        outcome=value.get("outcome"),
        parent=value.get("parent"),
        stream=value.get("stream", False),
        operation=value.get("operation"),
        metadata=value.get("metadata"),
        is_background=value.get("background", False),
        batch=value.get("batch"),
        custom_id=value.get("custom_id"),
    )


LOST: Final = JobError(
    FailureCode.UNAVAILABLE,
    "the gateway lost the job because of an internal error; submit the job again",
    Stage.QUEUE,
    retryable=True,
)
EXPIRED: Final = JobError(
    FailureCode.EXPIRED, "the deadline passed before a reply came", Stage.QUEUE, retryable=True
)
EXPIRED_WHILE_RUNNING: Final = JobError(
    FailureCode.EXPIRED,
    "the deadline passed while the job ran; submit the job again with a later deadline",
    Stage.RUN,
    retryable=True,
)


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ended, and when, in whole milliseconds.

    `error` says why a job without a reply failed or expired. `started_at` is when a cancelled job
    had started, as RFC 3339 text.
    """

    status: JobStatus
    at: datetime
    reply: JobReply | None = None
    error: JobError | None = None
    started_at: str | None = None

    def __post_init__(self) -> None:
        """Truncate `at` to whole milliseconds, which the outcome's blob stores."""
        milliseconds = self.at.microsecond // 1000
        object.__setattr__(self, "at", self.at.replace(microsecond=milliseconds * 1000))

    @classmethod
    def replied(cls, reply: JobReply, now: datetime) -> "JobOutcome":
        """Return the outcome of a job that succeeded or failed with this reply."""
        has_failed = isinstance(reply.outcome, JobError)
        return cls(JobStatus.FAILED if has_failed else JobStatus.SUCCEEDED, now, reply=reply)

    @classmethod
    def cancelled(cls, now: datetime, started_at: str | None = None) -> "JobOutcome":
        """Return the outcome of a job that was cancelled."""
        return cls(JobStatus.CANCELLED, now, started_at=started_at)

    @classmethod
    def expired(cls, now: datetime, error: JobError = EXPIRED) -> "JobOutcome":
        """Return the outcome of a job whose deadline passed before a reply arrived."""
        return cls(JobStatus.EXPIRED, now, error=error)

    @classmethod
    def failed(cls, error: JobError, now: datetime) -> "JobOutcome":
        """Return the outcome of a job that failed without a reply."""
        return cls(JobStatus.FAILED, now, error=error)


def outcome_to_json(outcome: JobOutcome) -> dict[str, Json]:
    """Convert an outcome to a JSON object without the members that are None."""
    value: dict[str, Json] = {"status": outcome.status.value, "at": format_time(outcome.at)}
    if outcome.reply is not None:
        value["reply"] = reply_to_json(outcome.reply)
    if outcome.error is not None:
        value["error"] = error_to_json(outcome.error)
    if outcome.started_at is not None:
        value["started_at"] = outcome.started_at
    return value


def outcome_from_json(value: Json) -> JobOutcome:
    """Convert a JSON value to an outcome. Raises ContractError or ValueError."""
    fields = Fields(value)
    return JobOutcome(
        JobStatus(fields.text("status")),
        fields.time("at"),
        reply_from_json(fields.raw("reply")) if fields.has("reply") else None,
        error_from_json(fields.child("error")) if fields.has("error") else None,
        fields.optional_text("started_at"),
    )


Record = dict[str, Any]
"""The state of a job as a JSON object:

    {"model", "status", "created_at", "started_at", "finished_at", "deadline", "attempt",
     "result": a payload in JSON, "error": an error in JSON, "timing", "trace_id",
     "tenant": absent if it is OPEN_TENANT, "priority": absent if it is normal,
     "label": absent if the job has no label,
     "parent": the id of the parent job, absent if the job has none,
     "results": a payload in JSON for each named result, absent if the job has none,
     "stream": true if the job writes its events to a log, otherwise absent,
     "operation": the operation of the OpenAI API, absent for other jobs,
     "metadata": texts by name, absent if the call had none,
     "background": true if the call did not wait for the job, otherwise absent,
     "batch", "custom_id": the batch of a line and the caller's name of it, absent for other jobs,
     "stream_lost": true if some events could not be written, otherwise absent}

`model` is the name of an entry of the catalogue, for example `classifier:2`.
"""


def initial_record(ticket: Ticket) -> Record:
    """Return the record of a job that was accepted and has not started."""
    return {
        "model": ticket.model,
        "status": JobStatus.QUEUED.value,
        "created_at": ticket.created_at,
        "started_at": None,
        "finished_at": None,
        "deadline": ticket.deadline,
        "attempt": 1,
        "result": None,
        "error": None,
        "timing": None,
        "trace_id": trace_id(ticket.traceparent),
        **({"tenant": ticket.tenant} if ticket.tenant else {}),
        **({"priority": ticket.priority.value} if ticket.priority is not Priority.NORMAL else {}),
        **({"label": ticket.label} if ticket.label is not None else {}),
        **({"parent": ticket.parent} if ticket.parent is not None else {}),
        **({"stream": True} if ticket.stream else {}),
        **({"operation": ticket.operation} if ticket.operation is not None else {}),
        **({"metadata": ticket.metadata} if ticket.metadata else {}),
        **({"background": True} if ticket.is_background else {}),
        **({"batch": ticket.batch} if ticket.batch is not None else {}),
        **({"custom_id": ticket.custom_id} if ticket.custom_id is not None else {}),
    }


def final_record(initial: Record, outcome: JobOutcome) -> Record:
    """Return the final record of a job that has this initial record and this outcome."""
    timing: dict[str, Json] = {"queued_ms": None, "inference_ms": None, "batch_size": None}
    record = {
        **initial,
        "status": outcome.status.value,
        "started_at": outcome.started_at,
        "finished_at": format_time(outcome.at),
        "error": error_to_json(outcome.error) if outcome.error else None,
    }
    if (reply := outcome.reply) is not None:
        timing = {key: getattr(reply.timing, key) for key in timing}
        record |= {
            "started_at": format_time(reply.started_at),
            "finished_at": format_time(reply.finished_at),
            "attempt": reply.attempt,
        }
        if isinstance(reply.outcome, JobError):
            record["error"] = error_to_json(reply.outcome)
        else:
            record["result"] = payload_to_json(reply.outcome)
        if reply.results:
            named = {name: payload_to_json(each) for name, each in reply.results.items()}
            record["results"] = named
        if (reply.timing.delivery or {}).get("stream_lost") is True:
            record["stream_lost"] = True
    # Both times are from the gateway's clock, because a worker's clock may be wrong.
    elapsed = outcome.at - datetime.fromisoformat(initial["created_at"])
    total_ms = max(0.0, round(elapsed.total_seconds() * 1000, 3))
    record["timing"] = {**timing, "total_ms": total_ms}
    return record


def recorded_output(instance: InstanceSnapshot) -> Record | None:
    """Return the final record that the orchestration returned, if it did."""
    output = instance.output
    is_record = isinstance(output, dict) and "status" in output
    return output if is_record and instance.runtime_status is RuntimeStatus.COMPLETED else None


def first_record_of(instance: InstanceSnapshot) -> Record | None:
    """Return the record that a job had when its orchestration was started.

    It is final if the orchestration was started with the outcome. Returns None if it runs no job.
    """
    try:
        ticket = read_ticket(instance.input)
        initial = initial_record(ticket)
        outcome = outcome_of(ticket)
    except (ValueError, KeyError, TypeError, ContractError):
        return None
    return initial if outcome is None else final_record(initial, outcome)


def outcome_of(ticket: Ticket) -> JobOutcome | None:
    """Return the outcome that a job's ticket contains, which counts even if a blob has another one.

    Raises ContractError or ValueError if the outcome in the ticket is not valid.
    """
    return None if ticket.outcome is None else outcome_from_json(ticket.outcome)


def version_of(record: Record) -> str:
    """Return the version of the model that runs the job."""
    return split_name(record["model"])[1]


def tenant_of(record: Record) -> str:
    """Return the tenant that owns the job."""
    return str(record.get("tenant", OPEN_TENANT))


def priority_of(record: Record) -> Priority:
    """Return the priority of the job."""
    return Priority(record.get("priority", Priority.NORMAL))


def is_final(record: Record) -> bool:
    """Return whether the job has ended."""
    return JobStatus(record["status"]).is_final


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A time in RFC 3339 format."""


class JobLinks(TypedDict):
    """The paths of a job, of its result, and of the route that cancels it."""

    self: Annotated[str, Field(examples=["/v1/jobs/01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])]
    result: str
    cancel: str


class DeliveryAttempt(TypedDict):
    """An attempt to deliver a webhook. It has the receiver's HTTP status, or an error code."""

    at: Time
    status: int | None
    error: Annotated[str | None, Field(examples=["timeout"])]


class WebhookDelivery(TypedDict):
    """The delivery log of a job's webhook."""

    state: Annotated[
        Literal["pending", "delivered", "stopped", "failed"],
        Field(
            description="`stopped`: the receiver sent 410. `failed`: not delivered within 24 hours."
        ),
    ]
    attempts: list[DeliveryAttempt]
    next_attempt_at: Time | None


class JobTiming(TypedDict):
    """The durations of a job in milliseconds, and the number of jobs in its batch."""

    queued_ms: float | None
    inference_ms: float | None
    batch_size: int | None
    total_ms: float


class JobFailure(TypedDict):
    """Why a job ended without a result."""

    code: Annotated[str, Field(examples=["inference-failed"])]
    message: str
    stage: Stage
    retryable: bool


class JobProgress(TypedDict):
    """The progress of a running job, if its model reports it."""

    fraction: Annotated[float | None, Field(ge=0, le=1, examples=[0.4])]
    message: str | None


class JobNamedResult(TypedDict):
    """A named result of a job. `json` is present if the result is small JSON."""

    media_type: Annotated[str, Field(examples=["image/png"])]
    json: NotRequired[Any]
    link: Annotated[
        str,
        Field(
            description="The path of the result itself.",
            examples=["/v1/jobs/01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e/result/mask"],
        ),
    ]


class JobResource(TypedDict):
    """A job, which is one unit of work. A final status never changes."""

    id: Annotated[str, Field(examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])]
    model: Annotated[str, Field(examples=["classifier"])]
    version: Annotated[
        str, Field(description="The version of the model that runs the job.", examples=["1"])
    ]
    label: Annotated[
        str | None,
        Field(
            description="The text that the caller gave the job; null if none.",
            examples=["order 4711"],
        ),
    ]
    metadata: NotRequired[
        Annotated[
            dict[str, str],
            Field(description="The `metadata` of a call of the OpenAI API, if any."),
        ]
    ]
    tenant: NotRequired[
        Annotated[str, Field(description="The owner; only for a caller that sees all tenants.")]
    ]
    parent: NotRequired[
        Annotated[
            str, Field(description="The id of the job whose model submitted this job, if any.")
        ]
    ]
    batch: NotRequired[
        Annotated[str, Field(description="The id of the batch whose line this job is, if any.")]
    ]
    custom_id: NotRequired[
        Annotated[str, Field(description="The `custom_id` of the line, if the job is one.")]
    ]
    status: JobStatus
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    deadline: Time
    attempt: Annotated[int, Field(ge=1)]
    progress: JobProgress | None
    queue: JobQueue
    result: Annotated[
        Any,
        Field(
            description="The result if it is JSON of up to 24 KiB or a text of up to 64 KiB; get "
            "any other result from links.result. In a list, also a text has at most 24 KiB."
        ),
    ]
    results: Annotated[
        dict[str, JobNamedResult],
        Field(description="The named results, which some models have in addition to the result."),
    ]
    error: JobFailure | None
    timing: JobTiming | None
    trace_id: str | None
    links: JobLinks


def job_path(job_id: str) -> str:
    """Return the URL path of a job."""
    return f"/v1/jobs/{job_id}"


def result_path(job_id: str, name: str | None = None) -> str:
    """Return the URL path of a job's result, or of the named result `name`."""
    path = f"{job_path(job_id)}/result"
    return path if name is None else f"{path}/{name}"


def _named_result(job_id: str, name: str, payload: Mapping[str, Json]) -> JobNamedResult:
    found: JobNamedResult = {
        "media_type": payload["media_type"],
        "link": result_path(job_id, name),
    }
    if "json" in payload:
        found["json"] = payload["json"]
    return found


def _is_text(media_type: str) -> bool:
    return essence(media_type).startswith("text/")


def _shown_result(payload: Mapping[str, Json]) -> Json:
    if "base64" not in payload or not _is_text(payload["media_type"]):
        return payload.get("json")
    try:
        return base64.b64decode(payload["base64"]).decode()
    except UnicodeDecodeError:
        return None


def job_resource(job_id: str, record: Record) -> JobResource:
    """Return the JSON object that represents a job in the responses of all routes."""
    path = job_path(job_id)
    model, version = split_name(record["model"])
    resource: JobResource = {
        "id": job_id,
        "model": model,
        "version": version,
        "label": record.get("label"),
        "status": record["status"],
        "created_at": record["created_at"],
        "started_at": record["started_at"],
        "finished_at": record["finished_at"],
        "deadline": record["deadline"],
        "attempt": record["attempt"],
        "progress": record.get("progress"),
        "queue": {"position": None, "eta_seconds": None, "phase": None},
        "result": _shown_result(record["result"] or {}),
        "results": {
            name: _named_result(job_id, name, payload)
            for name, payload in record.get("results", {}).items()
        },
        "error": record["error"],
        "timing": record["timing"],
        "trace_id": record["trace_id"],
        "links": {"self": path, "result": result_path(job_id), "cancel": path},
    }
    if (parent := record.get("parent")) is not None:
        resource["parent"] = parent
    if (batch := record.get("batch")) is not None:
        resource |= {"batch": batch, "custom_id": record["custom_id"]}
    if metadata := record.get("metadata"):
        resource["metadata"] = metadata
    return resource


_FAILURES: Final[dict[str, ProblemKind]] = {
    FailureCode.INVALID_INPUT: problems.INVALID_INPUT,
    # 422 and not 415, because the request was accepted, but the model could not read the input.
    FailureCode.UNSUPPORTED_MEDIA_TYPE: problems.INVALID_INPUT,
    FailureCode.DEAD_LETTERED: problems.DEAD_LETTERED,
    FailureCode.UNAVAILABLE: problems.UNAVAILABLE,
}


def problem_of_job(job: JobResource, *, has_run: bool | None = None) -> HttpProblem | None:
    """Return why an ended job failed; None if it succeeded. `has_run` is for expired jobs."""
    error: dict[str, Any] = {**(job["error"] or {})}
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
        about["ran"] = has_run if job["started_at"] is None else True
    return HttpProblem(kind, detail, **about, job=job)


async def add_text_result(payloads: PayloadStore, record: Record) -> Record:
    """Return the record with its text result, if a blob contains a text of up to 64 KiB.

    If the blob cannot be read, the link to the result reports why.
    """
    result = record["result"]
    if not result or "blob" not in result or not _is_text(result["media_type"]):
        return record
    ref = payload_from_json(Fields(result))
    if not isinstance(ref, PayloadRef) or ref.size_bytes > TEXT_LIMIT_BYTES:
        return record
    try:
        data = await payloads.get(ref)
    except (MissingPayload, PayloadCorrupt, Unavailable):
        return record
    return {**record, "result": payload_to_json(InlineBytes(ref.media_type, data))}


def marks_of(outcome: JobOutcome | None) -> DeliveryMarks | None:
    """Return the marks in the worker's reply; None if they are missing or not valid."""
    if outcome is None or outcome.reply is None or outcome.reply.timing.delivery is None:
        return None
    try:
        return marks_from_json(Fields(outcome.reply.timing.delivery))
    except ContractError:
        return None
