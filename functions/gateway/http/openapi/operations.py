"""OpenAPI descriptions of bodies, headers and problems, which FastAPI cannot derive itself."""

from typing import Any, Final

from contract.catalogue import Priority
from contract.guard import MAX_URL_CHARACTERS
from gateway.http.requests import LABEL_HEADER
from gateway.jobs.progress import MAX_MESSAGE_CHARACTERS
from gateway.problems import PROBLEM_KINDS
from gateway.settings import MAX_WAIT_SECONDS
from gateway.submission.parse import LABEL_PATTERN, MAX_LABEL_CHARACTERS

Responses = dict[int | str, dict[str, Any]]

IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "All requests of a tenant with the same key within 24 hours create one job. A repeat of "
        "the request returns that job; a different request is refused with 422. The key may be in "
        "quotes."
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
    "description": "A `low` job starts only if no `normal` job of the same model is queued.",
}
PRIORITY: Final[dict[str, Any]] = {
    "name": "priority",
    "in": "query",
    "required": False,
    "description": _PRIORITY["description"],
    "schema": {"type": "string", "enum": list(Priority), "default": Priority.NORMAL},
}
_LABEL: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_LABEL_CHARACTERS,
    "pattern": LABEL_PATTERN,
    "description": "A text by which to find the job later, for example `order 4711`.",
    "examples": ["order 4711"],
}
LABEL: Final[dict[str, Any]] = {
    "name": "label",
    "in": "query",
    "required": False,
    "description": _LABEL["description"],
    "schema": _LABEL,
}
LABEL_IN_HEADER: Final[dict[str, Any]] = {
    "name": LABEL_HEADER,
    "in": "header",
    "required": False,
    "description": "The label, as in the query. A request must not have both.",
    "schema": {
        "type": "string",
        "maxLength": MAX_LABEL_CHARACTERS,
        "pattern": r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$",
    },
}
UPLOAD: Final[dict[str, Any]] = {
    "name": "upload",
    "in": "query",
    "required": False,
    "description": "The id of an upload to use as the input. The body must then be empty.",
    "schema": {"type": "string", "format": "uuid"},
}
PREFER: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": (
        f"Preferences (RFC 7240). `wait=N` waits up to N seconds (at most {MAX_WAIT_SECONDS}) for "
        "the end of the job. `respond-async` does not wait."
    ),
    "schema": {"type": "string", "examples": ["wait=10", "respond-async"]},
}

IF_NONE_MATCH: Final[dict[str, Any]] = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "ETags of earlier responses. If one is still current, the status is 304.",
    "schema": {"type": "string", "examples": ['"cBs4MmXxWk8cSSPWQoMT"']},
}

_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_URL: Final[dict[str, Any]] = {
    "type": "string",
    "format": "uri",
    "maxLength": MAX_URL_CHARACTERS,
    "description": "An https URL with a public address.",
}
_INPUT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The input. It must have exactly one of base64, json, text, upload and url.",
    "properties": {
        "base64": {"type": "string", "minLength": 4, "contentEncoding": "base64"},
        "json": {},
        "text": {"type": "string", "minLength": 1},
        "upload": {"type": "string", "description": "The id of an upload from `POST /v1/uploads`."},
        "url": _URL,
        "media_type": {"type": ["string", "null"], "examples": ["image/jpeg"]},
    },
    "oneOf": [{"required": [name]} for name in ("base64", "json", "text", "upload", "url")],
    "additionalProperties": False,
}
_DEADLINE: Final[dict[str, Any]] = {"type": ["integer", "null"], "minimum": 1}
SUBMIT_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The input in a media type that the model accepts, or a form, or a JSON object.",
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
                    "parameters": {"type": "object", "description": "A JSON object."},
                    "deadline_seconds": {"type": "integer", "minimum": 1},
                    "label": _LABEL,
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
                    "inputs": {
                        "type": ["object", "null"],
                        "description": "The named inputs of the model, if it has any.",
                        "additionalProperties": _INPUT,
                    },
                    "parameters": {"type": ["object", "null"]},
                    "deadline_seconds": _DEADLINE,
                    "label": {**_LABEL, "type": ["string", "null"]},
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
                "required": ["model"],
                "properties": {
                    "model": {"type": "string", "examples": ["noop"]},
                    "media_type": {
                        "type": ["string", "null"],
                        "description": "If absent: the only media type that the model accepts, or "
                        "`application/octet-stream` if it accepts this.",
                        "examples": ["application/octet-stream"],
                    },
                    "input": {
                        "type": ["string", "null"],
                        "description": "The name of a named input. Absent for the first input.",
                    },
                },
                "additionalProperties": False,
            },
            "example": {"model": "noop", "media_type": "application/octet-stream"},
        }
    },
}
_TIME: Final[dict[str, Any]] = {"type": ["string", "null"], "format": "date-time"}
LETTER_ACTION_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["action", "count"],
                "properties": {
                    "action": {"type": "string", "enum": ["redrive", "purge"]},
                    "count": {
                        "type": "integer",
                        "minimum": 0,
                        "description": "The number that `GET /v1/admin/dead-letters/count` "
                        "returned: `not_redriven` for a redrive, `count` for a purge.",
                    },
                    "filter": {
                        "type": "object",
                        "properties": {
                            "model": {"type": ["string", "null"], "examples": ["noop"]},
                            "reason": {"type": ["string", "null"]},
                            "dead_lettered_after": _TIME,
                            "dead_lettered_before": _TIME,
                        },
                        "additionalProperties": False,
                    },
                    "cursor": {
                        "type": ["string", "null"],
                        "description": "The cursor with which the letters were counted.",
                    },
                },
                "additionalProperties": False,
            },
            "example": {"action": "redrive", "count": 12, "filter": {"model": "noop"}},
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


NOT_MODIFIED: Final[Responses] = {
    304: {"description": "The resource has not changed: its ETag is in `If-None-Match`"}
}


def problem_responses(*statuses: int, schema: str = "ProblemDetails") -> Responses:
    """Return the descriptions of the problem responses with these HTTP statuses."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    content = {"application/problem+json": {"schema": reference}}
    return {
        status: {
            "description": " or ".join(
                kind.code for kind in PROBLEM_KINDS.values() if kind.status == status
            ),
            "content": content,
        }
        for status in statuses
    }


def job_problem_responses(*statuses: int) -> Responses:
    """Return the OpenAPI descriptions of problem responses that may contain a job."""
    return problem_responses(*statuses, schema="JobProblem")
