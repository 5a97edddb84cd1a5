"""Messages to JSON bytes and back.

`to_json` and `from_json` halves serve callers that carry a message inside a larger document;
`encode` and `decode` halves make and read the bytes of a Service Bus message or an HTTP body.
"""

import base64
import binascii
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

from contract.errors import MalformedMessage, MessageTooLarge, UnsupportedSchema
from contract.fields import Fields, Json
from contract.messages import (
    InlineBytes,
    InlineJson,
    InputPayload,
    JobError,
    JobReply,
    JobRequest,
    Payload,
    PayloadRef,
    PayloadUrl,
    ReplyQueue,
    ReplyTo,
    ReplyUrl,
    ReplyWebhook,
    Stage,
    Timing,
)

SCHEMA_VERSION = 1
JOB_REQUEST_SCHEMA = Path(__file__).with_name("job-request.schema.json")

# Service Bus Standard takes 256 KiB with all headers and properties; this leaves them room.
MAX_MESSAGE_BYTES = 192 * 1024

# Legal as an orchestration instance id, a message id, a blob name and a path segment alike.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_REQUEST_FIELDS = frozenset(
    {"schema", "job_id", "model", "input", "parameters"}
    | {"created_at", "deadline", "reply_to", "attempt"}
)
_REPLY_FIELDS = frozenset(
    {"schema", "job_id", "result", "error", "started_at", "finished_at", "timing", "attempt"}
)


def encode_request(request: JobRequest) -> bytes:
    """JSON bytes of a request; MessageTooLarge over MAX_MESSAGE_BYTES."""
    return _encode(request_to_json(request))


def decode_request(data: bytes) -> JobRequest:
    """The request in these bytes; MalformedMessage, UnsupportedSchema or MessageTooLarge."""
    return request_from_json(_decode(data))


def encode_reply(reply: JobReply) -> bytes:
    """JSON bytes of a reply; MessageTooLarge over MAX_MESSAGE_BYTES."""
    return _encode(reply_to_json(reply))


def decode_reply(data: bytes) -> JobReply:
    """The reply in these bytes; MalformedMessage, UnsupportedSchema or MessageTooLarge."""
    return reply_from_json(_decode(data))


def request_to_json(request: JobRequest) -> dict[str, Json]:
    """The request as a JSON object."""
    return {
        **request.extra,
        "schema": SCHEMA_VERSION,
        "job_id": request.job_id,
        "model": request.model,
        "input": _input_to_json(request.input),
        "parameters": dict(request.parameters),
        "created_at": format_time(request.created_at),
        "deadline": format_time(request.deadline),
        "reply_to": _reply_to_json(request.reply_to),
        "attempt": request.attempt,
    }


def request_from_json(value: Json) -> JobRequest:
    """The request in a JSON object."""
    fields = _versioned(value)
    reply_to = fields.optional_child("reply_to")
    return JobRequest(
        job_id=_job_id(fields),
        model=fields.text("model"),
        input=_input_from_json(fields.child("input")),
        created_at=fields.time("created_at"),
        deadline=fields.time("deadline"),
        parameters=fields.mapping("parameters"),
        reply_to=_reply_to(reply_to) if reply_to else None,
        attempt=fields.integer("attempt", minimum=1) if fields.has("attempt") else 1,
        extra=fields.others(_REQUEST_FIELDS),
    )


def reply_to_json(reply: JobReply) -> dict[str, Json]:
    """The reply as a JSON object."""
    return {
        **reply.extra,
        "schema": SCHEMA_VERSION,
        "job_id": reply.job_id,
        **_outcome_to_json(reply.outcome),
        "started_at": format_time(reply.started_at),
        "finished_at": format_time(reply.finished_at),
        "timing": {
            "queued_ms": reply.timing.queued_ms,
            "inference_ms": reply.timing.inference_ms,
            "batch_size": reply.timing.batch_size,
        },
        "attempt": reply.attempt,
    }


def reply_from_json(value: Json) -> JobReply:
    """The reply in a JSON object."""
    fields = _versioned(value)
    result, error = fields.optional_child("result"), fields.optional_child("error")
    if (result is None) == (error is None):
        raise MalformedMessage("a reply has exactly one of result and error")
    timing = fields.optional_child("timing")
    return JobReply(
        job_id=_job_id(fields),
        outcome=payload_from_json(result) if result else error_from_json(error),
        started_at=fields.time("started_at"),
        finished_at=fields.time("finished_at"),
        timing=_timing(timing) if timing else Timing(),
        attempt=fields.integer("attempt", minimum=1) if fields.has("attempt") else 1,
        extra=fields.others(_REPLY_FIELDS),
    )


def payload_to_json(payload: Payload) -> dict[str, Json]:
    """A payload as a JSON object, told apart by its key: `base64`, `json` or `blob`."""
    match payload:
        case InlineBytes(media_type, data):
            return {"media_type": media_type, "base64": base64.b64encode(data).decode()}
        case InlineJson(value):
            return {"media_type": payload.media_type, "json": value}
        case PayloadRef(media_type, blob, size_bytes, sha256, etag):
            return {
                "media_type": media_type,
                "blob": blob,
                "size_bytes": size_bytes,
                **({} if sha256 is None else {"sha256": sha256}),
                **({} if etag is None else {"etag": etag}),
            }


def payload_from_json(fields: Fields) -> Payload:
    """The payload in a JSON object."""
    if fields.has("json"):
        return InlineJson(fields.raw("json"))
    media_type = fields.text("media_type")
    if fields.has("base64"):
        return InlineBytes(media_type, _bytes(fields.raw("base64")))
    if fields.has("blob"):
        return _reference(media_type, fields)
    raise MalformedMessage("a payload has one of base64, json and blob")


def _input_to_json(payload: InputPayload) -> dict[str, Json]:
    if not isinstance(payload, PayloadUrl):
        return payload_to_json(payload)
    media_type = {} if payload.media_type is None else {"media_type": payload.media_type}
    return {"url": payload.url, **media_type}


def _input_from_json(fields: Fields) -> InputPayload:
    if fields.has("url"):
        return PayloadUrl(fields.text("url"), fields.optional_text("media_type"))
    return payload_from_json(fields)


def _reference(media_type: str, fields: Fields) -> PayloadRef:
    etag = fields.optional_text("etag")
    # Only what names the bytes in another way can do without a digest.
    sha256 = fields.text("sha256") if etag is None else fields.optional_text("sha256")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise MalformedMessage("sha256: expected 64 hexadecimal digits in lower case")
    return PayloadRef(media_type, fields.text("blob"), fields.integer("size_bytes"), sha256, etag)


def error_to_json(error: JobError) -> dict[str, Json]:
    """A failure as a JSON object."""
    return {
        "code": error.code,
        "message": error.message,
        "stage": error.stage.value,
        "retryable": error.retryable,
    }


def error_from_json(fields: Fields | None) -> JobError:
    """The failure in a JSON object."""
    if fields is None:
        raise MalformedMessage("error: is missing")
    stage = fields.text("stage")
    if stage not in set(Stage):
        raise MalformedMessage(f"error.stage: expected one of {', '.join(Stage)}")
    return JobError(
        fields.text("code"), fields.text("message"), Stage(stage), fields.boolean("retryable")
    )


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as all our JSON writes it."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode(value: dict[str, Json]) -> bytes:
    # Escaped, so that half of a surrogate pair in somebody's JSON cannot break the encoding.
    data = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    _check_size(data)
    return data


def _decode(data: bytes) -> Json:
    _check_size(data)
    try:
        return json.loads(data, parse_constant=_refuse, parse_float=_finite)
    # A RecursionError is what nested brackets by the thousand give.
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"message is not JSON in UTF-8 ({type(error).__name__})") from None


def _refuse(name: str) -> Json:
    raise ValueError(name)  # NaN and Infinity are no JSON, whatever Python's parser says


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(len(data), MAX_MESSAGE_BYTES)


def _versioned(value: Json) -> Fields:
    fields = Fields(value)
    version = fields.raw("schema")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise UnsupportedSchema(version, SCHEMA_VERSION)
    return fields


def _job_id(fields: Fields) -> str:
    job_id = fields.text("job_id")
    if not _JOB_ID.fullmatch(job_id):
        raise MalformedMessage(
            "job_id: expected 1 to 100 letters, digits, dots, dashes or underscores"
        )
    return job_id


def _reply_to_json(reply_to: ReplyTo | None) -> dict[str, Json] | None:
    match reply_to:
        case None:
            return None
        case ReplyUrl(url):
            return {"url": url}
        case ReplyQueue(queue):
            return {"queue": queue}
        case ReplyWebhook(url):
            return {"webhook": url}


def _reply_to(fields: Fields) -> ReplyTo:
    if fields.has("queue"):
        return ReplyQueue(fields.text("queue"))
    if fields.has("webhook"):
        return ReplyWebhook(fields.text("webhook"))
    return ReplyUrl(fields.text("url"))


def _outcome_to_json(outcome: Payload | JobError) -> dict[str, Json]:
    if isinstance(outcome, JobError):
        return {"error": error_to_json(outcome)}
    return {"result": payload_to_json(outcome)}


def _timing(fields: Fields) -> Timing:
    return Timing(
        queued_ms=fields.number("queued_ms", default=0),
        inference_ms=fields.number("inference_ms", default=0),
        batch_size=fields.integer("batch_size", minimum=1) if fields.has("batch_size") else 1,
    )


def _bytes(value: Json) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise MalformedMessage("base64: expected a string in base64") from None
