"""The shapes that OpenAPI shows. They describe; requests and responses do not pass through them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from contract.messages import Stage
from contract.status import JobStatus


class JobLinks(BaseModel):
    """Where to go from a job."""

    self: str = Field(examples=["/v1/jobs/01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])
    result: str
    cancel: str


class Queue(BaseModel):
    """A job's place in the queue, where known."""

    position: int | None
    eta_seconds: float | None
    phase: Literal["queued", "cold_starting"] | None


class JobTiming(BaseModel):
    """Where a job's time went; null before it has ended."""

    queued_ms: float | None
    inference_ms: float | None
    batch_size: int | None
    total_ms: float


class JobFailure(BaseModel):
    """Why a job ended without a result."""

    code: str = Field(examples=["inference-failed"])
    message: str
    stage: Stage
    retryable: bool


class JobProgress(BaseModel):
    """How far a running job is, where its model tells."""

    fraction: float | None = Field(ge=0, le=1, examples=[0.4])
    message: str | None


class Job(BaseModel):
    """One unit of work. Ended states never change."""

    id: str = Field(examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])
    model: str = Field(examples=["classifier"])
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime
    attempt: int = Field(ge=1)
    progress: JobProgress | None
    queue: Queue
    result: Any = Field(description="The result where it is small JSON; else see links.result.")
    error: JobFailure | None
    timing: JobTiming | None
    trace_id: str | None
    links: JobLinks


class JobPageLinks(BaseModel):
    """Where to go from a page."""

    next: str | None


class JobPage(BaseModel):
    """Some jobs, newest first. It may have none and still a next page."""

    jobs: list[Job]
    next_cursor: str | None
    links: JobPageLinks


class ProblemDetails(BaseModel):
    """RFC 9457. Some problems have further members, named in `/docs/problems`."""

    type: str = Field(examples=["/docs/problems#unknown-model"])
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(examples=["unknown-model"])
    retryable: bool
    stage: Stage
    attempt: int | None
    trace_id: str | None


class JobProblem(ProblemDetails):
    """A problem about a job that exists."""

    job: Job | None = None


class DeliveryAttempt(BaseModel):
    """One try to deliver a webhook: the receiver's status, or the class of what went wrong."""

    at: datetime
    status: int | None
    error: str | None = Field(examples=["timeout"])


class WebhookDelivery(BaseModel):
    """The delivery log of a job's webhook."""

    state: Literal["pending", "delivered", "stopped", "failed"] = Field(
        description="`stopped`: the receiver answered 410. `failed`: given up after 24 hours."
    )
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None


class ModelLimits(BaseModel):
    """What a model takes at most; `pixels` is null where the input is no picture."""

    input_bytes: int
    upload_bytes: int
    pixels: int | None
    deadline_seconds: int


class ModelDefaults(BaseModel):
    """What holds where a submit does not say."""

    deadline_seconds: int


class ModelLinks(BaseModel):
    """Where to go from a model."""

    self: str
    jobs: str


class ModelDescription(BaseModel):
    """A model of the catalogue."""

    name: str = Field(examples=["classifier"])
    task: str
    description: str
    media_types: list[str]
    result_media_type: str = Field(
        description="What a result is. Only JSON stands in the job itself.", examples=["image/png"]
    )
    limits: ModelLimits
    defaults: ModelDefaults
    queue_length: int | None = Field(
        description="How many jobs wait or run, of either priority; null if unknown."
    )
    estimated_wait_seconds: float | None = Field(
        description="How long a job of normal priority that came now would take; null if unknown."
    )
    links: ModelLinks


class Models(BaseModel):
    """All models that take jobs."""

    models: list[ModelDescription]


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"]


class Ready(BaseModel):
    """Whether the services behind the gateway answer."""

    status: Literal["ready", "not ready"]
    checks: dict[Literal["durable", "queue", "blobs"], Literal["ok", "no answer"]]


class UploadSlot(BaseModel):
    """Where an input that is too large for a request may be sent, with one PUT."""

    upload: str = Field(
        description="The id to name in a job.", examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"]
    )
    method: Literal["PUT"]
    url: str = Field(description="Takes the bytes and shows nothing. Keep it to yourself.")
    headers: dict[str, str] = Field(description="What to send with the bytes.")
    max_bytes: int
    media_types: list[str]
    expires_at: datetime


class Accepted(BaseModel):
    """A reply was taken."""

    status: Literal["accepted"]


class Wanted(BaseModel):
    """A reply is still wanted."""

    status: Literal["wanted"]
