"""The schemas of the OpenAPI document. They only describe: responses are not validated by them."""

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from contract.messages import Stage
from gateway.jobs.model import JobStatus


class JobLinks(BaseModel):
    """Links of a job."""

    self: str = Field(examples=["/v1/jobs/01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])
    result: str
    cancel: str


class JobQueue(BaseModel):
    """The position of a job in its queue; a value is null if it is not known."""

    position: int | None
    eta_seconds: float | None
    phase: Literal["queued", "cold_starting"] | None


class JobTiming(BaseModel):
    """The times of a job; null before it has ended."""

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
    """The progress of a running job, if its model reports it."""

    fraction: float | None = Field(ge=0, le=1, examples=[0.4])
    message: str | None


class JobResource(BaseModel):
    """One unit of work. A final status never changes."""

    id: str = Field(examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])
    model: str = Field(examples=["classifier"])
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline: datetime
    attempt: int = Field(ge=1)
    progress: JobProgress | None
    queue: JobQueue
    result: Any = Field(description="The result if it is small JSON; otherwise see links.result.")
    error: JobFailure | None
    timing: JobTiming | None
    trace_id: str | None
    links: JobLinks


class JobPageLinks(BaseModel):
    """Links of a page."""

    next: str | None


class JobListPage(BaseModel):
    """A page of jobs, newest first. It may be empty and have a next page."""

    jobs: list[JobResource]
    next_cursor: str | None
    links: JobPageLinks


class ProblemDetails(BaseModel):
    """A problem document (RFC 9457). Some kinds have further members: see `/docs/problems`."""

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

    job: JobResource | None = None


class DeliveryAttempt(BaseModel):
    """One attempt to deliver a webhook: the receiver's status, or a class of error."""

    at: datetime
    status: int | None
    error: str | None = Field(examples=["timeout"])


class WebhookDelivery(BaseModel):
    """The delivery log of a job's webhook."""

    state: Literal["pending", "delivered", "stopped", "failed"] = Field(
        description="`stopped`: the receiver answered 410. `failed`: not delivered in 24 hours."
    )
    attempts: list[DeliveryAttempt]
    next_attempt_at: datetime | None


class ModelLimits(BaseModel):
    """The limits of a model; `pixels` is null if the input is not a picture."""

    input_bytes: int
    upload_bytes: int
    pixels: int | None
    deadline_seconds: int


class ModelDefaults(BaseModel):
    """The defaults for options of a submission."""

    deadline_seconds: int


class ModelLinks(BaseModel):
    """Links of a model."""

    self: str
    jobs: str


class ModelDescription(BaseModel):
    """A model of the catalogue."""

    name: str = Field(examples=["classifier"])
    task: str
    description: str
    media_types: list[str]
    result_media_type: str = Field(
        description="The media type of a result. Only JSON is part of the job itself.",
        examples=["image/png"],
    )
    limits: ModelLimits
    defaults: ModelDefaults
    queue_length: int | None = Field(
        description="How many jobs wait or run, of both priorities; null if unknown."
    )
    estimated_wait_seconds: float | None = Field(
        description="How long a new job of normal priority would take; null if unknown."
    )
    links: ModelLinks


class Models(BaseModel):
    """All models that take jobs."""

    models: list[ModelDescription]


class LiveStatus(BaseModel):
    """The process is alive."""

    status: Literal["live"]


class ReadyStatus(BaseModel):
    """Whether the services behind the gateway answer."""

    status: Literal["ready", "not ready"]
    checks: dict[Literal["durable", "queue", "blobs"], Literal["ok", "no answer"]]


class UploadSlot(BaseModel):
    """A slot for an input that is too large for a request. It takes one PUT."""

    upload: str = Field(
        description="The id to use in a job.", examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"]
    )
    method: Literal["PUT"]
    url: str = Field(description="A URL that takes the bytes. Keep it secret.")
    headers: dict[str, str] = Field(description="The headers to send with the bytes.")
    max_bytes: int
    media_types: list[str]
    expires_at: datetime


class ReplyAccepted(BaseModel):
    """A reply or report was accepted."""

    status: Literal["accepted"]


class ReplyWanted(BaseModel):
    """The job is waiting for a reply."""

    status: Literal["wanted"]


LETTER_ID: Final = "[A-Za-z0-9._-]{1,128}(?:~low)?"
"""The pattern of an id: the characters of a blob name, then a suffix for low priority."""

_ID: Final = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"


class LetterInput(BaseModel):
    """The input of a dead letter, without its bytes."""

    kind: Literal["inline", "blob", "url"]
    media_type: str | None
    size_bytes: int | None


class LetterLinks(BaseModel):
    """Links of a dead letter."""

    self: str
    redrive: str
    job: str
    redriven_as: str | None = None


class DeadLetter(BaseModel):
    """A message that was dead-lettered."""

    id: str = Field(examples=[_ID])
    model: str = Field(examples=["classifier"])
    queue: str = Field(description="Where it was, and goes again.", examples=["classifier"])
    job_id: str = Field(examples=[_ID])
    message_id: str | None
    reason: str | None = Field(examples=["MaxDeliveryCountExceeded"])
    description: str | None
    delivery_count: int | None
    enqueued_at: datetime | None
    dead_lettered_at: datetime | None
    created_at: datetime | None = Field(description="Null where the message is no request.")
    deadline: datetime | None
    input: LetterInput | None
    redriven_at: datetime | None
    redriven_as: str | None = Field(description="The job as which it was sent again.")
    links: LetterLinks


class DeadLetters(BaseModel):
    """A page of dead letters."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class RedrivenLetter(BaseModel):
    """The result of a redrive."""

    job_id: str = Field(examples=[_ID])
    is_new_job: bool = Field(
        description="True for a job of this gateway, which goes on as a new job with a new id; "
        "false for a producer's message, which was sent again under its own job id."
    )
    is_repeat: bool = Field(description="Whether that had been done before: nothing was sent now.")
    links: dict[str, str]


class Purged(BaseModel):
    """The number of dead letters that were deleted, and whether that were all."""

    deleted: int
    is_complete: bool
