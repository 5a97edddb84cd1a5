"""The messages: what goes to a worker, and what comes back.

Times are UTC. `extra` holds the fields that a newer peer added: they survive decode and encode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from contract.fields import Json


@dataclass(frozen=True, slots=True)
class InlineBytes:
    """A small payload that travels in the message itself."""

    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InlineJson:
    """A small JSON payload, readable in the message."""

    value: Json

    @property
    def media_type(self) -> str:
        """Always JSON."""
        return "application/json"


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """A payload in blob storage: `blob` is its name in the payload container.

    At least one of `sha256`, in hex, and `etag` says which bytes are meant. An upload has only the
    ETag: nobody has read it yet.
    """

    media_type: str
    blob: str
    size_bytes: int
    sha256: str | None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class PayloadUrl:
    """A payload that the worker fetches itself. The URL may hold a secret, hence not in the repr.

    Without a media type, what the bytes show counts, or else what their server says.
    """

    url: str = field(repr=False)
    media_type: str | None = None


Payload = InlineBytes | InlineJson | PayloadRef
"""What a result can be."""

InputPayload = Payload | PayloadUrl


@dataclass(frozen=True, slots=True)
class ReplyUrl:
    """The gateway's reply route, with the job's own token in it, hence not in the repr."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplyQueue:
    """A Service Bus queue in the namespace of the request's."""

    queue: str


@dataclass(frozen=True, slots=True)
class ReplyWebhook:
    """Anybody's HTTP endpoint: signed, and only where the address guard lets us go."""

    url: str = field(repr=False)


ReplyTo = ReplyUrl | ReplyQueue | ReplyWebhook


class Stage(StrEnum):
    """Where in its life a job failed."""

    ACCEPT = "accept"
    QUEUE = "queue"
    LOAD = "load"
    RUN = "run"
    REPLY = "reply"


class FailureCode(StrEnum):
    """Why a job ended without a result. A code that a reader does not know is still a failure."""

    INVALID_INPUT = "invalid-input"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    PAYLOAD_CORRUPT = "payload-corrupt"
    INFERENCE_FAILED = "inference-failed"
    OUT_OF_MEMORY = "out-of-memory"
    RESULT_TOO_LARGE = "result-too-large"
    DEAD_LETTERED = "dead-lettered"
    EXPIRED = "expired"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed. `message` is for the caller: no internals, what happened and what to do."""

    code: str
    message: str
    stage: Stage
    retryable: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a job's time went, as its worker saw it."""

    queued_ms: float = 0.0
    inference_ms: float = 0.0
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class JobRequest:
    """One job on its way to a worker.

    `reply_to` is where the reply goes; None where the producer wants none. `attempt` counts sends,
    from 1.
    """

    job_id: str
    model: str
    input: InputPayload
    created_at: datetime
    deadline: datetime
    parameters: Mapping[str, Json] = field(default_factory=dict)
    reply_to: ReplyTo | None = None
    attempt: int = 1
    extra: Mapping[str, Json] = field(default_factory=dict)

    @property
    def reply_url(self) -> str | None:
        """The gateway's reply route, where the job came from a gateway."""
        return self.reply_to.url if isinstance(self.reply_to, ReplyUrl) else None


@dataclass(frozen=True, slots=True)
class JobReply:
    """A job's one outcome: a result or an error, never both.

    `attempt` is the delivery on which it came about, from 1.
    """

    job_id: str
    outcome: Payload | JobError
    started_at: datetime
    finished_at: datetime
    timing: Timing = Timing()
    attempt: int = 1
    extra: Mapping[str, Json] = field(default_factory=dict)
