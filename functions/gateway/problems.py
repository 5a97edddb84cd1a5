"""Problem details (RFC 9457). Each kind of problem has a stable code and an explanation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """A kind of problem.

    `retryable` says whether a repeated request may succeed. `advice` tells the caller what to do.
    """

    code: str
    status: int
    title: str
    advice: str
    retryable: bool = False

    @property
    def type(self) -> str:
        """The relative URI of the page that explains this kind of problem."""
        return f"/docs/problems#{self.code}"


MALFORMED_REQUEST: Final = ProblemKind(
    "malformed-request",
    400,
    "The request cannot be read",
    "The body does not match its Content-Type, or an option is unknown or out of range. `detail` "
    "names the wrong part.",
)
UNAUTHENTICATED: Final = ProblemKind(
    "unauthenticated",
    401,
    "The key or token is missing or not valid",
    "Send an API key in the header `Authorization: Bearer …` or `x-api-key`. A worker must reply "
    "to the URL in the job's message, which contains the token.",
)
FORBIDDEN: Final = ProblemKind(
    "forbidden",
    403,
    "The key does not allow this request",
    "`detail` names the missing scope. Ask the operator for a key with this scope.",
)
CROSS_ORIGIN: Final = ProblemKind(
    "cross-origin",
    403,
    "Web pages of this origin must not send this request",
    "A browser sent the request for a page of another site. The operator can allow the origin of "
    "this page by `CORS_ORIGINS`.",
)
NOT_FOUND: Final = ProblemKind(
    "not-found",
    404,
    "The API has no such path",
    "Check the URL. `/openapi.json` lists all paths.",
)
UNKNOWN_MODEL: Final = ProblemKind(
    "unknown-model",
    404,
    "There is no such model",
    "`nearest` lists models with similar names; `/v1/models` lists all models.",
)
UNKNOWN_JOB: Final = ProblemKind(
    "unknown-job",
    404,
    "There is no such job",
    "The id is wrong, or the job was deleted after its retention.",
)
UNKNOWN_BATCH: Final = ProblemKind(
    "unknown-batch",
    404,
    "There is no such batch",
    "The id is wrong, or the batch was deleted after its retention.",
)
UNKNOWN_RESULT: Final = ProblemKind(
    "unknown-result",
    404,
    "The job has no such result",
    "The name is wrong, or the model has omitted an optional result. `results` of the job contains "
    "the names of all results.",
)
UNKNOWN_DEAD_LETTER: Final = ProblemKind(
    "unknown-dead-letter",
    404,
    "There is no such dead letter",
    "The id is wrong, or the letter was deleted. `/v1/admin/dead-letters` lists all letters.",
)
METHOD_NOT_ALLOWED: Final = ProblemKind(
    "method-not-allowed",
    405,
    "The path does not support this method",
    "The `Allow` header lists the supported methods.",
)
NOT_FINAL: Final = ProblemKind(
    "not-final",
    409,
    "The job has not ended",
    "Repeat the request when the job has ended.",
    retryable=True,
)
NO_RESULT: Final = ProblemKind(
    "no-result",
    409,
    "The job ended without a result",
    "The job failed, expired or was cancelled. `job` contains its status.",
)
CANCELLED: Final = ProblemKind(
    "cancelled",
    409,
    "The job was cancelled",
    "It was cancelled while this request waited for its result.",
)
NOT_REDRIVABLE: Final = ProblemKind(
    "not-redrivable",
    409,
    "The dead letter cannot be sent again",
    "The letter is not a request, its job has not ended, another redrive is running, or the job or "
    "its input was deleted. `detail` contains the reason.",
)
COUNT_CHANGED: Final = ProblemKind(
    "count-changed",
    409,
    "The number of matching dead letters has changed",
    "Nothing was changed. `count` is the present number. Look at the letters again, then send this "
    "number.",
)
ALREADY_FINAL: Final = ProblemKind(
    "already-final",
    410,
    "The job has ended",
    "Only workers get this. Stop work on the job, and complete its message without a reply.",
)
PRECONDITION_FAILED: Final = ProblemKind(
    "precondition-failed",
    412,
    "The resource has changed",
    "`If-Match` does not contain the resource's current ETag, so nothing was changed. Read the "
    "resource again, then decide.",
)
PAYLOAD_TOO_LARGE: Final = ProblemKind(
    "payload-too-large",
    413,
    "The payload is too large",
    "`limit_bytes` is the largest allowed size in bytes. Send a larger input as an upload, up to "
    "`upload_bytes` of the model.",
)
UNSUPPORTED_MEDIA_TYPE: Final = ProblemKind(
    "unsupported-media-type",
    415,
    "The model does not accept this media type",
    "`accepted` lists the accepted media types. The content must match its Content-Type.",
)
RANGE_NOT_SATISFIABLE: Final = ProblemKind(
    "range-not-satisfiable",
    416,
    "The content is shorter than the range",
    "`Content-Range` has the present length. The file of a running batch grows: repeat the request "
    "later.",
)
INVALID_INPUT: Final = ProblemKind(
    "invalid-input",
    422,
    "The input cannot be used",
    "The input is empty or unreadable, or has more pixels than the model accepts, or one of the "
    "URLs is not allowed. `detail` contains the reason.",
)
INVALID_BATCH: Final = ProblemKind(
    "invalid-batch",
    422,
    "Lines of the batch cannot be used",
    "Nothing was started. `errors` lists up to 100 lines, with the reasons: correct them, and send "
    "the batch again.",
)
IDEMPOTENCY_MISMATCH: Final = ProblemKind(
    "idempotency-mismatch",
    422,
    "The Idempotency-Key belongs to another request",
    "The key was first sent with another model, payload or option. Use a new key.",
)
RATE_LIMITED: Final = ProblemKind(
    "rate-limited",
    429,
    "The rate limit is exceeded",
    "Try again after `Retry-After` seconds. The header `RateLimit` contains the remaining "
    "requests, `RateLimit-Policy` the limit of the API key. Inputs by URL have a limit of their "
    "own for each tenant, `URL_INPUT_RATE`.",
    retryable=True,
)
TOO_MANY_LOOK_UPS: Final = ProblemKind(
    "too-many-look-ups",
    429,
    "Too many host names are being looked up",
    "DNS has not answered for the host names in earlier requests. Check the names in `input.url` "
    "and `webhook.url`, and try again after `Retry-After` seconds.",
    retryable=True,
)
TOO_MANY_STREAMS: Final = ProblemKind(
    "too-many-streams",
    429,
    "Too many streams are open",
    "Close a stream, or try again after `Retry-After` seconds. The job is not affected: read it "
    "with `GET /v1/jobs/{id}`. The operator sets `MAX_STREAMS` and `MAX_TENANT_STREAMS`.",
    retryable=True,
)
QUEUE_LIMIT: Final = ProblemKind(
    "queue-limit",
    429,
    "The tenant has too many jobs",
    "The tenant has as many jobs that have not ended as it may have. `limit`, `used` and "
    "`remaining` are numbers of jobs. Try again after `Retry-After` seconds.",
    retryable=True,
)
GPU_SECONDS_EXHAUSTED: Final = ProblemKind(
    "gpu-seconds-exhausted",
    429,
    "The tenant has used its time on devices",
    "The jobs of the tenant have used as many seconds on devices as they may in a day of UTC. "
    "`limit`, `used` and `remaining` are in seconds. `Retry-After` is the time to the next day.",
    retryable=True,
)
TOO_MANY_BATCHES: Final = ProblemKind(
    "too-many-batches",
    429,
    "There are too many batches",
    "The tenant has as many batches as are kept. Batches that have ended are deleted after their "
    "retention. Put more lines into each batch.",
    retryable=True,
)
INFERENCE_FAILED: Final = ProblemKind(
    "inference-failed",
    500,
    "The model failed",
    "The model raised an error for this job. `retryable` says whether a repeated request may "
    "succeed.",
    retryable=True,
)
DEAD_LETTERED: Final = ProblemKind(
    "dead-lettered",
    500,
    "The job was given up",
    "Deliveries of the job failed as often as allowed, or a worker "
    "refused its message. `detail` contains the reason.",
)
INTERNAL_ERROR: Final = ProblemKind(
    "internal-error",
    500,
    "The gateway failed",
    "This is an error in the gateway. Search its log for the `trace_id`.",
    retryable=True,
)
UNAVAILABLE: Final = ProblemKind(
    "unavailable",
    503,
    "A service that the gateway needs is unavailable",
    "The request was not accepted. Try again after `Retry-After` seconds.",
    retryable=True,
)
SATURATED: Final = ProblemKind(
    "saturated",
    503,
    "The queue is too long",
    "At the model's recent speed, the deadline would pass before a worker could run the job, so it "
    "was not accepted. Try again after `Retry-After` seconds, or with a longer deadline.",
    retryable=True,
)
OVERLOADED: Final = ProblemKind(
    "overloaded",
    503,
    "The gateway serves too many large requests",
    "The bodies of the requests in progress would use too much memory together, so the request was "
    "not accepted. Try again after `Retry-After` seconds, or send the input as an upload.",
    retryable=True,
)
EXPIRED: Final = ProblemKind(
    "expired",
    504,
    "The deadline passed",
    "No worker finished the job in time. `ran` says whether a worker had received it; null if "
    "unknown.",
    retryable=True,
)

PROBLEM_KINDS: Final[Mapping[str, ProblemKind]] = {
    kind.code: kind
    for kind in sorted(
        (value for value in list(globals().values()) if isinstance(value, ProblemKind)),
        key=lambda kind: (kind.status, kind.code),
    )
}


def kinds_of(status: int) -> list[ProblemKind]:
    """Return the kinds of problems with this HTTP status."""
    return [kind for kind in PROBLEM_KINDS.values() if kind.status == status]


class HttpProblem(Exception):
    """An error that the API reports to the caller as a problem document.

    `extra` contains further members of the document, and `headers` belong to the response.
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

    def add_input(self, name: str | None) -> None:
        """Name the named input that has the problem; None, the first input, changes nothing."""
        if name is not None:
            if not self.detail.startswith(f"inputs.{name}"):
                self.detail = f"inputs.{name}: {self.detail}"
            self.extra.setdefault("pointer", f"/inputs/{name}")

    def document(self, instance: str, trace_id: str | None) -> dict[str, Any]:
        """Return the problem document of the resource with the path `instance`."""
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


def malformed(detail: str) -> HttpProblem:
    """Return the problem `malformed-request`."""
    return HttpProblem(MALFORMED_REQUEST, detail)


def invalid_input(detail: str, **extra: Any) -> HttpProblem:
    """Return the problem `invalid-input`."""
    return HttpProblem(INVALID_INPUT, detail, **extra)


def missing_scope(*sufficient: str) -> HttpProblem:
    """Return the problem `forbidden` for a key that has none of these scopes."""
    return HttpProblem(FORBIDDEN, f"the API key does not have the scope {' or '.join(sufficient)}")
