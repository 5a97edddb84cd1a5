"""Problem details (RFC 9457): every refusal has a stable code, and a page that explains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of problem: its HTTP status, its title, and whether the same again may succeed."""

    code: str
    status: int
    title: str
    retryable: bool
    advice: str

    @property
    def type(self) -> str:
        """The problem's URI, resolved against this gateway: there stands what it means."""
        return f"/docs/problems#{self.code}"


MALFORMED_REQUEST: Final = Kind(
    "malformed-request",
    400,
    "The request cannot be read",
    False,
    "The body is not the JSON or multipart that it is announced as, or an option is unknown or "
    "out of range. `detail` names the part.",
)
UNAUTHENTICATED: Final = Kind(
    "unauthenticated",
    401,
    "The key or token is missing or not valid",
    False,
    "Send a key as `Authorization: Bearer …` or `x-api-key`. A worker's reply must carry the token "
    "that came with the job.",
)
FORBIDDEN: Final = Kind(
    "forbidden",
    403,
    "The key does not allow this",
    False,
    "`detail` names the scope that it lacks. Ask the operator for a key that has it.",
)
NOT_FOUND: Final = Kind(
    "not-found",
    404,
    "There is nothing at this address",
    False,
    "The path is none of the API's. `/openapi.json` lists them all.",
)
UNKNOWN_MODEL: Final = Kind(
    "unknown-model",
    404,
    "There is no such model",
    False,
    "`nearest` lists names that look alike; `/v1/models` lists all.",
)
UNKNOWN_JOB: Final = Kind(
    "unknown-job",
    404,
    "There is no such job",
    False,
    "The id is wrong, or the job ended so long ago that it is no longer kept.",
)
UNKNOWN_DEAD_LETTER: Final = Kind(
    "unknown-dead-letter",
    404,
    "There is no such dead letter",
    False,
    "The id is wrong, or the letter was purged. `/v1/admin/dead-letters` lists what is kept.",
)
METHOD_NOT_ALLOWED: Final = Kind(
    "method-not-allowed",
    405,
    "The address does not take this method",
    False,
    "The `Allow` header lists the methods that it takes.",
)
NOT_FINAL: Final = Kind(
    "not-final",
    409,
    "The job has not ended",
    True,
    "What was asked for is there once the job has ended.",
)
NO_RESULT: Final = Kind(
    "no-result",
    409,
    "The job ended without a result",
    False,
    "It failed, was cancelled or expired: `job` tells which.",
)
CANCELLED: Final = Kind(
    "cancelled", 409, "The job was cancelled", False, "Somebody cancelled it while you waited."
)
NOT_REDRIVABLE: Final = Kind(
    "not-redrivable",
    409,
    "The dead letter cannot be sent again",
    False,
    "It is no request of a job, or the job or its input is no longer kept: `detail` tells which.",
)
ALREADY_FINAL: Final = Kind(
    "already-final",
    410,
    "The job is final",
    False,
    "For workers: nobody waits for this reply any more; complete the message and go on.",
)
PRECONDITION_FAILED: Final = Kind(
    "precondition-failed",
    412,
    "It has changed",
    False,
    "`If-Match` names none of what there is now, so nothing was done. Look again, and decide anew.",
)
PAYLOAD_TOO_LARGE: Final = Kind(
    "payload-too-large",
    413,
    "The payload is too large",
    False,
    "`limit_bytes` is what the model takes.",
)
UNSUPPORTED_MEDIA_TYPE: Final = Kind(
    "unsupported-media-type",
    415,
    "The model does not take this media type",
    False,
    "`accepted` lists what it takes. The bytes must be what Content-Type announces.",
)
INVALID_INPUT: Final = Kind(
    "invalid-input",
    422,
    "The input cannot be used",
    False,
    "It is empty, unreadable, or has more pixels than the model takes.",
)
IDEMPOTENCY_MISMATCH: Final = Kind(
    "idempotency-mismatch",
    422,
    "The key belongs to another request",
    False,
    "The `Idempotency-Key` was sent before with another model, payload or option. Use a new key.",
)
RATE_LIMITED: Final = Kind(
    "rate-limited",
    429,
    "The key's rate is used up",
    True,
    "Try again after `Retry-After` seconds. `RateLimit` tells what is left, `RateLimit-Policy` "
    "what the key has.",
)
INFERENCE_FAILED: Final = Kind(
    "inference-failed",
    500,
    "The model failed",
    True,
    "The job ran and raised an error. `retryable` tells whether the same again may succeed.",
)
DEAD_LETTERED: Final = Kind(
    "dead-lettered",
    500,
    "The job was given up",
    False,
    "It was delivered to workers as often as allowed and none finished it, or one refused its "
    "message: `detail` tells which.",
)
INTERNAL_ERROR: Final = Kind(
    "internal-error",
    500,
    "The gateway failed",
    True,
    "A defect of ours. `trace_id` finds it in the logs.",
)
UNAVAILABLE: Final = Kind(
    "unavailable",
    503,
    "A service behind the gateway is down",
    True,
    "Nothing was accepted. Try again after `Retry-After` seconds.",
)
SATURATED: Final = Kind(
    "saturated",
    503,
    "The queue is too long",
    True,
    "By the model's recent speed the job would expire before its turn, so it was not accepted. Try "
    "again after `Retry-After` seconds, or with a longer deadline.",
)
EXPIRED: Final = Kind(
    "expired",
    504,
    "The deadline passed",
    True,
    "No worker finished the job in time. `ran` says whether it reached one, null if unknown.",
)

KINDS: Final[Mapping[str, Kind]] = {
    kind.code: kind
    for kind in sorted(
        (value for value in list(globals().values()) if isinstance(value, Kind)),
        key=lambda kind: (kind.status, kind.code),
    )
}


class Problem(Exception):
    """A refusal. `extra` are further members of the document, `headers` of the response."""

    def __init__(
        self,
        kind: Kind,
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
        """The problem document; `instance` is what the problem is about, as a URI reference."""
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
