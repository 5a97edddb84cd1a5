"""Which headers an answer carries, for OpenAPI."""

from collections.abc import Mapping
from typing import Any, Final

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}


def _header(description: str, example: object, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "schema": dict(schema), "example": example}


_JOB_PATH = "/v1/jobs/01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"
DESCRIPTIONS: Final[Mapping[str, dict[str, Any]]] = {
    "Accept-Encoding": _header("No coding of the body is taken.", "identity", _TEXT),
    "Accept-Post": _header("The media types that the model takes.", "image/jpeg", _TEXT),
    "Content-Location": _header("The job that this is the state of.", _JOB_PATH, _TEXT),
    "ETag": _header("Names this state, for `If-None-Match`.", '"cBs4MmXxWk8cSSPWQoMT"', _TEXT),
    "Idempotency-Replayed": _header("An earlier request had brought the job.", "true", _TEXT),
    "Link": _header("The next page.", '</v1/jobs?cursor=MDFh>; rel="next"', _TEXT),
    "Location": _header("Where the job is.", _JOB_PATH, _TEXT),
    "Preference-Applied": _header("The preferences that were honoured.", "wait=10", _TEXT),
    "RateLimit": _header("What is left of the key's rate.", '"default";r=50;t=1', _TEXT),
    "RateLimit-Policy": _header("The key's rate.", '"default";q=100;w=60', _TEXT),
    "Retry-After": _header("Seconds to let pass before the next look or try.", 1, _COUNT),
    "Vary": _header("The request headers that the answer depends on.", "Prefer", _TEXT),
    "WWW-Authenticate": _header("How to send a key.", 'Bearer realm="loosely"', _TEXT),
    "traceresponse": _header(
        "The trace of this request.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        _TEXT,
    ),
}

_ANY_STATUS: Final[Mapping[str, tuple[str, ...]]] = {
    "401": ("WWW-Authenticate",),
    "415": ("Accept-Post", "Accept-Encoding"),
    "429": ("Retry-After", "RateLimit", "RateLimit-Policy"),
    "503": ("Retry-After",),
}
_BY_ANSWER: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("submit_job", "200"): (
        *("Content-Location", "Preference-Applied", "Vary", "Idempotency-Replayed"),
    ),
    ("submit_job", "202"): (
        *("Location", "Retry-After", "Preference-Applied", "Vary", "Idempotency-Replayed"),
    ),
    ("oip_infer", "200"): ("Idempotency-Replayed",),
    ("oip_infer_version", "200"): ("Idempotency-Replayed",),
    ("list_jobs", "200"): ("ETag", "Link"),
    ("list_jobs", "304"): ("ETag",),
    ("get_job", "200"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    ("get_job", "304"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    ("get_result", "200"): ("ETag",),
    ("get_result", "202"): ("Location", "Retry-After"),
    ("get_result", "303"): ("Location",),
    ("get_result", "304"): ("ETag",),
    ("cancel_job", "202"): ("Location", "Retry-After"),
}


def headers_of(operation_id: str, status: str) -> tuple[str, ...]:
    """The names of the headers that this answer may carry."""
    own = _BY_ANSWER.get((operation_id, status), ())
    return (*own, *_ANY_STATUS.get(status, ()), "traceresponse")
