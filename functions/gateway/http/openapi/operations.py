"""OpenAPI descriptions of bodies, headers and problems, which FastAPI cannot derive itself."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import Query

from contract.catalogue import Priority
from contract.guard import MAX_URL_CHARACTERS
from contract.queues import LONGEST_BATCH_SECONDS
from gateway.batches.create import MAX_ITEMS
from gateway.batches.intake import JSONL, MAX_CUSTOM_ID_CHARACTERS
from gateway.http.requests import LABEL_HEADER
from gateway.jobs.progress import MAX_MESSAGE_CHARACTERS
from gateway.openai.calls import MAX_NAME, MAX_PAIRS, MAX_VALUE
from gateway.problems import kinds_of
from gateway.settings import MAX_WAIT_SECONDS
from gateway.shares.tenants import (
    MAX_GPU_SECONDS,
    MAX_QUEUED,
    MAX_RUNNING,
    MAX_WEIGHT,
    MIN_WEIGHT,
)
from gateway.submission.parse import LABEL_PATTERN, MAX_LABEL_CHARACTERS

Responses = dict[int | str, dict[str, Any]]
Schema = dict[str, Any]


def describe_object(required: Iterable[str], **properties: Schema) -> Schema:
    """Return the schema of an object that must have the members in `required`."""
    return {"type": "object", "required": list(required), "properties": properties}


def _describe_closed(required: Iterable[str], **properties: Schema) -> Schema:
    return {**describe_object(required, **properties), "additionalProperties": False}


def describe_parameter(name: str, place: str, description: str, schema: Schema) -> dict[str, Any]:
    """Return the description of an optional parameter in the query or in a header."""
    return {
        "name": name,
        "in": place,
        "required": False,
        "description": description,
        "schema": schema,
    }


def query_option(description: str, **schema: Any) -> Any:
    """Return the description of a query parameter, with further members of its JSON Schema."""
    return Query(description=description, json_schema_extra=schema or None)


def _describe_body(schema: Schema, example: object = None) -> dict[str, Any]:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"required": True, "content": {"application/json": content}}


_TEXT: Final[Schema] = {"type": "string"}
_OPTIONAL_TEXT: Final[Schema] = {"type": ["string", "null"]}
_POSITIVE: Final[Schema] = {"type": "integer", "minimum": 1}
_NOT_NEGATIVE: Final[Schema] = {"type": "integer", "minimum": 0}
_FILE: Final[Schema] = {"type": "string", "format": "binary"}
BINARY: Final = {"schema": _FILE}

IDEMPOTENCY_KEY: Final = describe_parameter(
    "Idempotency-Key",
    "header",
    "All requests of a tenant with the same key within 24 hours create one job. A repeat of the "
    "request returns that job; a different request is refused with 422. The key may be in quotes.",
    {
        "type": "string",
        "pattern": r'^(?:"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255}"'
        r"|[\x21\x23-\x2b\x2d-\x7e]{1,255})$",
        "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"'],
    },
)
_PRIORITY: Final[Schema] = {
    "type": "string",
    "enum": list(Priority),
    "description": "A `low` job starts only if no `normal` job of the same model is queued.",
}
PRIORITY: Final = describe_parameter(
    "priority",
    "query",
    _PRIORITY["description"],
    {"type": "string", "enum": list(Priority), "default": Priority.NORMAL},
)
_LABEL: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_LABEL_CHARACTERS,
    "pattern": LABEL_PATTERN,
    "description": "A text by which to find the job later, for example `order 4711`.",
    "examples": ["order 4711"],
}
LABEL: Final = describe_parameter("label", "query", _LABEL["description"], _LABEL)
LABEL_IN_HEADER: Final = describe_parameter(
    LABEL_HEADER,
    "header",
    "The label, as in the query. A request must not have both.",
    {
        "type": "string",
        "maxLength": MAX_LABEL_CHARACTERS,
        "pattern": r"^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$",
    },
)
STREAM: Final = describe_parameter(
    "stream",
    "query",
    "Whether the job writes its events to a log, which `GET /v1/jobs/{id}/events` reads. If "
    "absent: `streams` of the model, and `true` with `Accept: text/event-stream` or "
    "`Prefer: stream`.",
    {"type": "string", "enum": ["true", "false"]},
)
UPLOAD: Final = describe_parameter(
    "upload",
    "query",
    "The id of an upload to use as the input. The body must then be empty.",
    {"type": "string", "format": "uuid"},
)
PREFER: Final = describe_parameter(
    "Prefer",
    "header",
    f"Preferences (RFC 7240). `wait=N` waits up to N seconds (at most {MAX_WAIT_SECONDS}) for the "
    "end of the job. `respond-async` does not wait. `stream` is the same as the option `stream`.",
    {"type": "string", "examples": ["wait=10", "respond-async", "respond-async, stream"]},
)
_EVENT_ID: Final = "^(?:[0-9]{1,9}-[0-9]{1,9})?$"
LAST_EVENT_ID: Final = describe_parameter(
    "Last-Event-ID",
    "header",
    "The id of the last event that the caller has. Only later events are sent.",
    {"type": "string", "pattern": _EVENT_ID, "examples": ["1-3"]},
)
AFTER_OPTION: Final = query_option(
    "The same as `Last-Event-ID`, which counts if both are given.",
    pattern=_EVENT_ID,
)
EVENTS: Final = {
    "text/event-stream": {
        "schema": describe_object(
            ["event", "data"],
            id={"type": "string", "examples": ["1-1"]},
            event={
                "type": "string",
                "enum": [
                    *("job", "chunk", "progress", "attempt"),
                    *("stream_lost", "resume", "behind", "end"),
                ],
                "description": "`job` is in the response to a submit only.",
            },
            data={"type": "string", "description": "The data of the event as JSON."},
        ),
        "example": 'id: 1-1\nevent: chunk\ndata: "Paris"\n\n',
    }
}
RANGE: Final = describe_parameter(
    "Range",
    "header",
    "A range of bytes: `bytes=N-`, `bytes=N-M` or `bytes=-N`. Others are ignored.",
    {"type": "string", "examples": ["bytes=1024-"]},
)
IF_NONE_MATCH: Final = describe_parameter(
    "If-None-Match",
    "header",
    "ETags of earlier responses. If one is still current, the status is 304.",
    {"type": "string", "examples": ['"cBs4MmXxWk8cSSPWQoMT"']},
)

_URL: Final[Schema] = {
    "type": "string",
    "format": "uri",
    "maxLength": MAX_URL_CHARACTERS,
    "description": "An https URL with a public address.",
}
_INPUT: Final[Schema] = {
    "type": "object",
    "description": "The input. It must have exactly one of base64, json, text, upload and url.",
    "properties": {
        "base64": {"type": "string", "minLength": 4, "contentEncoding": "base64"},
        "json": {},
        "text": {"type": "string", "minLength": 1},
        "upload": {"type": "string", "description": "The id of an upload from `POST /v1/uploads`."},
        "url": {
            "type": "string",
            "format": "uri",
            "description": "An https URL with a public address, or a `data:` URI (RFC 2397).",
        },
        "media_type": {**_OPTIONAL_TEXT, "examples": ["image/jpeg"]},
    },
    "oneOf": [{"required": [name]} for name in ("base64", "json", "text", "upload", "url")],
    "additionalProperties": False,
}
_FORM: Final = _describe_closed(
    ["file"],
    file=_FILE,
    parameters={"type": "object", "description": "A JSON object."},
    deadline_seconds=_POSITIVE,
    label=_LABEL,
    priority=_PRIORITY,
    stream={"type": "string", "enum": ["true", "false"]},
    webhook_url=_URL,
)
_ENVELOPE: Final = _describe_closed(
    ["input"],
    input=_INPUT,
    inputs={
        "type": ["object", "null"],
        "description": "The named inputs of the model, if it has any.",
        "additionalProperties": _INPUT,
    },
    parameters={"type": ["object", "null"]},
    deadline_seconds={"type": ["integer", "null"], "minimum": 1},
    label={**_LABEL, **_OPTIONAL_TEXT},
    priority={**_PRIORITY, **_OPTIONAL_TEXT, "enum": [*Priority, None]},
    stream={"type": ["boolean", "null"]},
    webhook={**_describe_closed(["url"], url=_URL), "type": ["object", "null"]},
)
SUBMIT_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The input in a media type that the model accepts, or a form, or a JSON object.",
    "content": {
        "image/jpeg": BINARY,
        "image/png": BINARY,
        "image/webp": BINARY,
        "application/octet-stream": BINARY,
        "text/plain": {"schema": _TEXT},
        "multipart/form-data": {"schema": _FORM},
        "application/json": {
            "schema": _ENVELOPE,
            "example": {"input": {"text": "hello"}, "deadline_seconds": 60},
        },
    },
}
_LINE: Final = _describe_closed(
    ["custom_id"],
    custom_id={
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_CUSTOM_ID_CHARACTERS,
        "pattern": r"^[^\u0000-\u001f\u007f]*$",
        "description": "Names the line in the output. No two lines of a batch have the same.",
    },
    input={**_INPUT, "type": ["object", "null"]},
    input_url={
        **_OPTIONAL_TEXT,
        "description": "The same as `input` with `url`. A line has one of input, input_url and "
        "upload.",
    },
    upload={**_OPTIONAL_TEXT, "description": "The same as `input` with `upload`."},
    inputs=_ENVELOPE["properties"]["inputs"],
    parameters={"type": ["object", "null"]},
)
_BATCH: Final[dict[str, Schema]] = {
    "model": {
        "type": "string",
        "description": "A name from `/v1/models`, or `NAME:VERSION`.",
        "examples": ["noop"],
    },
    "parameters": {
        "type": ["object", "null"],
        "description": "Parameters of all lines. Those of a line count before these.",
    },
    "deadline_seconds": {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": LONGEST_BATCH_SECONDS,
        "description": "How many seconds after its creation the batch expires. If absent: a day.",
    },
    "label": {**_LABEL, **_OPTIONAL_TEXT},
    "metadata": {
        "type": ["object", "null"],
        "maxProperties": MAX_PAIRS,
        "propertyNames": {"maxLength": MAX_NAME},
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE},
    },
    "webhook": _ENVELOPE["properties"]["webhook"],
}
_ITEMS: Final[Schema] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_ITEMS,
    "items": _LINE,
    "description": "The lines. More than these go in a file.",
}
_BATCH_FILE: Final = _describe_closed(
    ["upload"],
    upload={
        "type": "string",
        "description": 'The id of an upload from `POST /v1/uploads` with `{"purpose": "batch"}`: '
        "JSONL, one JSON object on each line.",
    },
)
BATCH_BODY: Final = _describe_body(
    {
        "oneOf": [
            _describe_closed(["model", "items"], items=_ITEMS, **_BATCH),
            _describe_closed(["model", "file"], file=_BATCH_FILE, **_BATCH),
        ]
    },
    {"model": "noop", "items": [{"custom_id": "first", "input": {"text": "hello"}}]},
)
UPLOAD_BODY: Final = _describe_body(
    {
        "oneOf": [
            _describe_closed(
                ["model"],
                model={"type": "string", "examples": ["noop"]},
                media_type={
                    **_OPTIONAL_TEXT,
                    "description": "If absent: the only media type that the model accepts, or "
                    "`application/octet-stream` if it accepts this.",
                    "examples": ["application/octet-stream"],
                },
                input={
                    **_OPTIONAL_TEXT,
                    "description": "The name of a named input. Absent for the first input.",
                },
            ),
            _describe_closed(
                ["purpose"],
                purpose={"const": "batch", "description": "The upload is the file of a batch."},
                media_type={**_OPTIONAL_TEXT, "examples": [JSONL]},
            ),
        ]
    },
    {"model": "noop", "media_type": "application/octet-stream"},
)
_FILTER: Final[Schema] = {
    "type": "object",
    "properties": {
        "model": {**_OPTIONAL_TEXT, "examples": ["noop"]},
        "reason": _OPTIONAL_TEXT,
        "dead_lettered_after": {**_OPTIONAL_TEXT, "format": "date-time"},
        "dead_lettered_before": {**_OPTIONAL_TEXT, "format": "date-time"},
    },
    "additionalProperties": False,
}
LETTER_ACTION_BODY: Final = _describe_body(
    _describe_closed(
        ["action", "count"],
        action={"type": "string", "enum": ["redrive", "purge"]},
        count={
            **_NOT_NEGATIVE,
            "description": "The number that `GET /v1/admin/dead-letters/count` returned: "
            "`not_redriven` for a redrive, `count` for a purge.",
        },
        filter=_FILTER,
        cursor={
            **_OPTIONAL_TEXT,
            "description": "The cursor with which the letters were counted.",
        },
    ),
    {"action": "redrive", "count": 12, "filter": {"model": "noop"}},
)
TENANT_BODY: Final = _describe_body(
    _describe_closed(
        [],
        weight={"type": "number", "minimum": MIN_WEIGHT, "maximum": MAX_WEIGHT},
        max_queued={"type": ["integer", "null"], "minimum": 0, "maximum": MAX_QUEUED},
        max_running={"type": ["integer", "null"], "minimum": 1, "maximum": MAX_RUNNING},
        gpu_seconds_a_day={"type": ["number", "null"], "minimum": 0, "maximum": MAX_GPU_SECONDS},
    ),
    {"weight": 2, "max_queued": 100, "gpu_seconds_a_day": 3600},
)
REPLY_BODY: Final = _describe_body({"type": "object"})
GATHERED_REPLIES_BODY: Final = {
    "required": True,
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
PROGRESS_BODY: Final = _describe_body(
    describe_object(
        ["attempt", "sequence", "started_at"],
        attempt=_POSITIVE,
        sequence=_NOT_NEGATIVE,
        started_at={"type": "string", "format": "date-time"},
        fraction={"type": "number", "minimum": 0, "maximum": 1},
        message={**_OPTIONAL_TEXT, "maxLength": MAX_MESSAGE_CHARACTERS},
        stopped={"type": "boolean"},
    )
)

NOT_MODIFIED: Final[Responses] = {
    304: {"description": "The resource has not changed: its ETag is in `If-None-Match`"}
}


def problem_responses(*statuses: int, schema: str = "ProblemDetails") -> Responses:
    """Return the descriptions of the problem responses with these HTTP statuses."""
    reference = {"$ref": f"#/components/schemas/{schema}"}
    content = {"application/problem+json": {"schema": reference}}
    return {
        status: {
            "description": " or ".join(kind.code for kind in kinds_of(status)),
            "content": content,
        }
        for status in statuses
    }


def job_problem_responses(*statuses: int) -> Responses:
    """Return the OpenAPI descriptions of problem responses that may contain a job."""
    return problem_responses(*statuses, schema="JobProblem")
