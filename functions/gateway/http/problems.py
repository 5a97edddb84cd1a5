"""Problem details (RFC 9457): each kind has a stable code, and a text that explains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from contract.messages import Stage
from gateway.jobs.model import JobResource


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem: its HTTP status, its title, and whether a repeated request may succeed."""

    code: str
    status: int
    title: str
    retryable: bool
    advice: str

    @property
    def type(self) -> str:
        """The URI of the problem, relative to the gateway; a page that explains it."""
        return f"/docs/problems#{self.code}"


MALFORMED_REQUEST: Final = ProblemKind(
    "malformed-request",
    400,
    "The request cannot be read",
    False,
    "The body is not the JSON or multipart that it is announced as, or an option is unknown or "
    "out of range. `detail` names the part.",
)
UNAUTHENTICATED: Final = ProblemKind(
    "unauthenticated",
    401,
    "The key or token is missing or not valid",
    False,
    "Send a key as `Authorization: Bearer …` or `x-api-key`. A worker's reply must carry the token "
    "that came with the job.",
)
FORBIDDEN: Final = ProblemKind(
    "forbidden",
    403,
    "The key does not allow this",
    False,
    "`detail` names the scope that it lacks. Ask the operator for a key that has it.",
)
NOT_FOUND: Final = ProblemKind(
    "not-found",
    404,
    "There is nothing at this address",
    False,
    "The API has no such path. `/openapi.json` lists all paths.",
)
UNKNOWN_MODEL: Final = ProblemKind(
    "unknown-model",
    404,
    "There is no such model",
    False,
    "`nearest` lists names that look alike; `/v1/models` lists all.",
)
UNKNOWN_JOB: Final = ProblemKind(
    "unknown-job",
    404,
    "There is no such job",
    False,
    "The id is wrong, or the job ended so long ago that it is no longer kept.",
)
UNKNOWN_DEAD_LETTER: Final = ProblemKind(
    "unknown-dead-letter",
    404,
    "There is no such dead letter",
    False,
    "The id is wrong, or the letter was purged. `/v1/admin/dead-letters` lists what is kept.",
)
METHOD_NOT_ALLOWED: Final = ProblemKind(
    "method-not-allowed",
    405,
    "The address does not take this method",
    False,
    "The `Allow` header lists the methods that it takes.",
)
NOT_FINAL: Final = ProblemKind(
    "not-final",
    409,
    "The job has not ended",
    True,
    "Repeat the request once the job has ended.",
)
NO_RESULT: Final = ProblemKind(
    "no-result",
    409,
    "The job ended without a result",
    False,
    "It failed, was cancelled or expired: `job` has the status.",
)
CANCELLED: Final = ProblemKind(
    "cancelled", 409, "The job was cancelled", False, "It was cancelled during the wait."
)
NOT_REDRIVABLE: Final = ProblemKind(
    "not-redrivable",
    409,
    "The dead letter cannot be sent again",
    False,
    "It is not a request, or the job or its input is no longer kept: `detail` has the cause.",
)
ALREADY_FINAL: Final = ProblemKind(
    "already-final",
    410,
    "The job is final",
    False,
    "For workers: the reply is no longer needed. Complete the message and go on.",
)
PRECONDITION_FAILED: Final = ProblemKind(
    "precondition-failed",
    412,
    "The resource has changed",
    False,
    "`If-Match` does not have its present tag, so nothing was done. Read it again, then decide.",
)
PAYLOAD_TOO_LARGE: Final = ProblemKind(
    "payload-too-large",
    413,
    "The payload is too large",
    False,
    "`limit_bytes` is the limit.",
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemKind(
    "unsupported-media-type",
    415,
    "The model does not take this media type",
    False,
    "`accepted` lists what it takes. The bytes must be what Content-Type announces.",
)
INVALID_INPUT: Final = ProblemKind(
    "invalid-input",
    422,
    "The input cannot be used",
    False,
    "It is empty, unreadable, or has more pixels than the model takes.",
)
IDEMPOTENCY_MISMATCH: Final = ProblemKind(
    "idempotency-mismatch",
    422,
    "The key belongs to another request",
    False,
    "The `Idempotency-Key` was sent before with another model, payload or option. Use a new key.",
)
RATE_LIMITED: Final = ProblemKind(
    "rate-limited",
    429,
    "The key's rate is used up",
    True,
    "Try again after `Retry-After` seconds. `RateLimit` has what is left, `RateLimit-Policy` "
    "the rate of the key.",
)
INFERENCE_FAILED: Final = ProblemKind(
    "inference-failed",
    500,
    "The model failed",
    True,
    "The job ran and raised an error. `retryable` says whether a repeated request may succeed.",
)
DEAD_LETTERED: Final = ProblemKind(
    "dead-lettered",
    500,
    "The job was given up",
    False,
    "It was delivered to workers as often as allowed and none finished it, or one refused its "
    "message: `detail` has the cause.",
)
INTERNAL_ERROR: Final = ProblemKind(
    "internal-error",
    500,
    "The gateway failed",
    True,
    "This is a defect of the gateway. `trace_id` finds it in the logs.",
)
UNAVAILABLE: Final = ProblemKind(
    "unavailable",
    503,
    "A service behind the gateway is down",
    True,
    "Nothing was accepted. Try again after `Retry-After` seconds.",
)
SATURATED: Final = ProblemKind(
    "saturated",
    503,
    "The queue is too long",
    True,
    "By the model's recent speed the job would expire before its turn, so it was not accepted. Try "
    "again after `Retry-After` seconds, or with a longer deadline.",
)
EXPIRED: Final = ProblemKind(
    "expired",
    504,
    "The deadline passed",
    True,
    "No worker finished the job in time. `ran` says whether it reached one, null if unknown.",
)

PROBLEM_KINDS: Final[Mapping[str, ProblemKind]] = {
    kind.code: kind
    for kind in sorted(
        (value for value in list(globals().values()) if isinstance(value, ProblemKind)),
        key=lambda kind: (kind.status, kind.code),
    )
}


class ProblemDetails(TypedDict):
    """A problem document (RFC 9457). Some kinds have further members: see `/docs/problems`."""

    type: Annotated[str, Field(examples=["/docs/problems#unknown-model"])]
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Field(examples=["unknown-model"])]
    retryable: bool
    stage: Stage
    attempt: int | None
    trace_id: str | None


class JobProblem(ProblemDetails):
    """A problem about a job that exists."""

    job: NotRequired[JobResource | None]


class HttpProblem(Exception):
    """A request that is refused, or a job that did not succeed.

    `extra` has further members of the problem document, `headers` those of the response.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(f"{kind.code}: {detail}")
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra

    def document(self, instance: str, trace_id: str | None) -> dict[str, Any]:
        """Return the problem document. `instance` is the URI of what the problem is about."""
        return {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.kind.code,
            "retryable": self.kind.retryable,
            "stage": "accept",
            "attempt": None,
            "trace_id": trace_id,
            **self.extra,
        }
