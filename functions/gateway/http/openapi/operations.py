"""The parts of OpenAPI operations that FastAPI cannot derive: bodies, headers, responses."""

from typing import Any, Final

from pydantic import BaseModel

from contract.catalogue import Priority
from contract.guard import MAX_URL_CHARACTERS
from gateway.http.openapi.schemas import (
    JobListPage,
    JobProblem,
    JobResource,
    LiveStatus,
    ModelDescription,
    Models,
    ProblemDetails,
    ReadyStatus,
    ReplyAccepted,
    ReplyWanted,
    UploadSlot,
    WebhookDelivery,
)
from gateway.http.problems import PROBLEM_KINDS
from gateway.jobs.progress import MAX_MESSAGE_CHARACTERS
from gateway.settings import MAX_WAIT_SECONDS

Responses = dict[int | str, dict[str, Any]]

IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "All requests of a tenant under one key within 24 hours make one job. The same request "
        "gets that job, another request 422. The key may be in quotes."
    ),
    "schema": {
        "type": "string",
        "pattern": r'^(?:"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255}"'
        r"|[\x21\x23-\x2b\x2d-\x7e]{1,255})$",
        "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
    },
}
_PRIORITY: Final[dict[str, Any]] = {
    "type": "string",
    "enum": list(Priority),
    "description": "A `low` job runs only while no `normal` job of its model waits.",
}
PRIORITY: Final[dict[str, Any]] = {
    "name": "priority",
    "in": "query",
    "required": False,
    "description": _PRIORITY["description"],
    "schema": {"type": "string", "enum": list(Priority), "default": Priority.NORMAL},
}
UPLOAD: Final[dict[str, Any]] = {
    "name": "upload",
    "in": "query",
    "required": False,
    "description": "The id of an upload that is the input; then the body must be empty.",
    "schema": {"type": "string", "format": "uuid"},
}
PREFER: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": (
        f"RFC 7240. `wait=N` waits up to N seconds (at most {MAX_WAIT_SECONDS}); "
        "`respond-async` does not wait."
    ),
    "schema": {"type": "string", "examples": ["wait=10", "respond-async"]},
}

IF_NONE_MATCH: Final[dict[str, Any]] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "RFC 9110. Tags from `ETag`: if the resource still has one, the answer is 304.",
    "schema": {"type": "string", "examples": ['"cBs4MmXxWk8cSSPWQoMT"']},
}

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_URL: Final[dict[str, Any]] = {
    "type": "string",
    "format": "uri",
    "maxLength": MAX_URL_CHARACTERS,
    "description": "A public https address.",
}
_INPUT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Exactly one of base64, json, text, upload and url.",
    "properties": {
        "base64": {"type": "string", "minLength": 4, "contentEncoding": "base64"},
        "json": {},
        "text": {"type": "string", "minLength": 1},
        "upload": {"type": "string", "description": "The id of an upload, see `/v1/uploads`."},
        "url": _URL,
        "media_type": {"type": ["string", "null"], "examples": ["image/jpeg"]},
    },
    "oneOf": [{"required": [name]} for name in ("base64", "json", "text", "upload", "url")],
    "additionalProperties": False,
}
_DEADLINE: Final[dict[str, Any]] = {"type": ["integer", "null"], "minimum": 1}
SUBMIT_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The bytes in a media type that the model takes, or a form, or JSON.",
    "content": {
        "image/jpeg": _BINARY,
        "image/png": _BINARY,
        "image/webp": _BINARY,
        "application/octet-stream": _BINARY,
        "text/plain": {"schema": {"type": "string"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "parameters": {"type": "object", "description": "As JSON."},
                    "deadline_seconds": {"type": "integer", "minimum": 1},
                    "priority": _PRIORITY,
                    "webhook_url": _URL,
                },
                "additionalProperties": False,
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input"],
                "properties": {
                    "input": _INPUT,
                    "parameters": {"type": ["object", "null"]},
                    "deadline_seconds": _DEADLINE,
                    "priority": {
                        **_PRIORITY,
                        "type": ["string", "null"],
                        "enum": [*Priority, None],
                    },
                    "webhook": {
                        "type": ["object", "null"],
                        "required": ["url"],
                        "properties": {"url": _URL},
                        "additionalProperties": False,
                    },
                },
                "additionalProperties": False,
            },
            "example": {"input": {"text": "hello"}, "deadline_seconds": 60},
        },
    },
}
UPLOAD_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model", "media_type"],
                "properties": {
                    "model": {"type": "string", "examples": ["noop"]},
                    "media_type": {"type": "string", "examples": ["application/octet-stream"]},
                },
                "additionalProperties": False,
            },
            "example": {"model": "noop", "media_type": "application/octet-stream"},
        }
    },
}
REPLY_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object"}}},
}
PROGRESS_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["attempt", "sequence", "started_at"],
                "properties": {
                    "attempt": {"type": "integer", "minimum": 1},
                    "sequence": {"type": "integer", "minimum": 0},
                    "started_at": {"type": "string", "format": "date-time"},
                    "fraction": {"type": "number", "minimum": 0, "maximum": 1},
                    "message": {"type": ["string", "null"], "maxLength": MAX_MESSAGE_CHARACTERS},
                    "stopped": {"type": "boolean"},
                },
            }
        }
    },
}


def responses(model: type[BaseModel], statuses: dict[int, str], *problems: int) -> Responses:
    """Return the responses of an operation.

    Args:
        model: The model of the successful responses.
        statuses: The statuses of successful responses, and their descriptions.
        problems: The statuses of problem documents.
    """
    found: Responses = {
        status: {"model": model, "description": text} for status, text in statuses.items()
    }
    for status in problems:
        codes = [kind.code for kind in PROBLEM_KINDS.values() if kind.status == status]
        schema = "JobProblem" if model is JobResource else "ProblemDetails"
        reference = {"$ref": f"#/components/schemas/{schema}"}
        problem = {"application/problem+json": {"schema": reference}}
        found.setdefault(status, {"description": " or ".join(codes), "content": problem})
    return found


SUBMIT_RESPONSES: Final = responses(
    JobResource,
    {200: "The job has ended with a result", 202: "The job was accepted; `Location` has its URL"},
    *(400, 404, 409, 413, 415, 422, 500, 503, 504),
)
_UNCHANGED: Final[Responses] = {304: {"description": "The resource has a tag of `If-None-Match`"}}
JOBS_RESPONSES: Final[Responses] = {
    **responses(JobListPage, {200: "A page of jobs; `Link` has the next, too"}, 400, 412, 503),
    **_UNCHANGED,
}
JOB_RESPONSES: Final[Responses] = {
    **responses(JobResource, {200: "The job, in any status"}, 400, 404, 412, 503),
    **_UNCHANGED,
}
CANCEL_RESPONSES: Final = responses(
    JobResource,
    {200: "The job had ended already", 202: "The job is being cancelled"},
    400,
    404,
    412,
    503,
)
RESULT_RESPONSES: Final[Responses] = {
    200: {"description": "The result", "content": {"*/*": {}}},
    303: {"description": "The result is large: `Location` has a URL that is valid for 15 minutes"},
    **responses(JobResource, {202: "The job has not ended yet"}, 400, 404, 409, 412, 500, 503),
    **_UNCHANGED,
}
WEBHOOK_RESPONSES: Final = responses(WebhookDelivery, {200: "The delivery log"}, 400, 404, 503)
REDELIVER_RESPONSES: Final = responses(
    WebhookDelivery, {202: "The delivery was started"}, 400, 404, 409, 503
)
UPLOAD_RESPONSES: Final = responses(
    UploadSlot, {201: "The slot takes data until `expires_at`"}, 400, 404, 413, 415, 503
)
MODELS_RESPONSES: Final = responses(Models, {200: "All models"}, 400)
MODEL_RESPONSES: Final = responses(ModelDescription, {200: "The model"}, 400, 404)
LIVE_RESPONSES: Final = responses(LiveStatus, {200: "The process is alive"})
READY_RESPONSES: Final = responses(
    ReadyStatus, {200: "The gateway can take jobs", 503: "A service does not answer"}
)
REPLY_RESPONSES: Final = responses(
    ReplyAccepted, {202: "The reply was accepted"}, 401, 404, 410, 413, 422, 503
)
WANTED_RESPONSES: Final = responses(ReplyWanted, {200: "A reply is wanted"}, 401, 404, 410, 503)
PROGRESS_RESPONSES: Final = responses(
    ReplyAccepted, {200: "The job is to go on"}, 401, 404, 410, 413, 422, 503
)

PROBLEM_SCHEMAS: Final[tuple[type[BaseModel], ...]] = (ProblemDetails, JobProblem)
