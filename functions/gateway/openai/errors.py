"""Problems in the form of the errors of the OpenAI API.

https://platform.openai.com/docs/guides/error-codes and the class `APIError` of the package `openai`
describe the form. The clients repeat a request if the header `x-should-retry` says so.
"""

from typing import Any, Final

from gateway import problems
from gateway.problems import HttpProblem

PREFIX: Final = "/openai/v1"

# The codes that clients of OpenAI know. All others are those of our problems.
_CODES: Final = {
    problems.UNAUTHENTICATED: "invalid_api_key",
    problems.UNKNOWN_MODEL: "model_not_found",
    problems.RATE_LIMITED: "rate_limit_exceeded",
    problems.QUEUE_LIMIT: "rate_limit_exceeded",
    problems.GPU_SECONDS_EXHAUSTED: "insufficient_quota",
}
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_document(problem: HttpProblem) -> dict[str, Any]:
    """Return the body of the response that reports a problem. `param` is the wrong member."""
    status = problem.kind.status
    default_type = "invalid_request_error" if status < 500 else "server_error"
    return {
        "error": {
            "message": problem.detail,
            "type": _TYPES.get(status, default_type),
            "param": problem.extra.get("param"),
            "code": _CODES.get(problem.kind, problem.kind.code),
        }
    }


def error_headers(problem: HttpProblem) -> dict[str, str]:
    """Return the headers of this response."""
    is_retryable = problem.extra.get("retryable", problem.kind.retryable)
    return {**problem.headers, "x-should-retry": "true" if is_retryable else "false"}
