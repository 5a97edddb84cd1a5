"""Define the messages between gateway and worker, and convert them to and from JSON.

All times are in UTC. The attribute `extra` contains the fields of a message that this module does
not know, for example because the sender's code is newer. These fields are kept when the message is
decoded and encoded again.

`*_to_json` and `*_from_json` convert a message that is part of a larger document. `encode_*` and
`decode_*` convert the bytes of a Service Bus message or an HTTP body. They raise MessageTooLarge
above MAX_MESSAGE_BYTES. Each function that reads a message raises UnsupportedSchema if this program
cannot read the schema version, and MalformedMessage if the message is otherwise not valid.

A small payload is part of the message. A large payload is stored as a blob, and the message
contains a reference to the blob (the claim check pattern). The results in a message have at most
INLINE_LIMIT_BYTES together, and the inputs in a message at most INPUT_INLINE_LIMIT_BYTES.
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from contract.errors import MalformedMessage, MessageTooLarge, PayloadCorrupt, UnsupportedSchema

# JSON as Python objects. It is not a recursive type, because then all code that reads JSON would
# have to check the type of each value for mypy.
Json = Any


@dataclass(frozen=True, slots=True)
class InlineBytes:
    """A small payload that is part of the message, as bytes."""

    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InlineJson:
    """A small payload that is part of the message, as a JSON value."""

    value: Json

    @property
    def media_type(self) -> str:
        """The payload's media type, which is always `application/json`."""
        return "application/json"


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """A reference to a payload in blob storage. `blob` is the blob's name in the payload container.

    `sha256` (hexadecimal), `etag` or both identify the content. A reference to an upload has only
    the ETag, because the gateway has not read the upload.
    """

    media_type: str
    blob: str
    size_bytes: int
    sha256: str | None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class PayloadUrl:
    """A payload that the worker downloads. The repr omits the URL, which may contain a secret.

    Without a `media_type`, the worker recognises it by the first bytes of the download, or else
    uses the server's Content-Type header.
    """

    url: str = field(repr=False)
    media_type: str | None = None


# What can be the result of a job, and what can be its input.
Payload = InlineBytes | InlineJson | PayloadRef
InputPayload = Payload | PayloadUrl


@dataclass(frozen=True, slots=True)
class ReplyUrl:
    """The gateway's URL for the reply to one job. The repr hides the URL's secret token."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplyQueue:
    """The queue, in the namespace of the request's queue, in which a producer receives replies."""

    queue: str


ReplyTo = ReplyUrl | ReplyQueue


class Stage(StrEnum):
    """The stage of processing at which a job failed."""

    ACCEPT = "accept"
    QUEUE = "queue"
    LOAD = "load"
    RUN = "run"
    REPLY = "reply"


class FailureCode(StrEnum):
    """Why a job ended without a result. Later versions may add codes, which mean a failure, too."""

    INVALID_INPUT = "invalid-input"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    PAYLOAD_CORRUPT = "payload-corrupt"
    INFERENCE_FAILED = "inference-failed"
    CHILD_FAILED = "child-failed"
    OUT_OF_MEMORY = "out-of-memory"
    RESULT_TOO_LARGE = "result-too-large"
    RUN_TOO_LONG = "run-too-long"
    MODEL_BROKEN = "model-broken"
    DEAD_LETTERED = "dead-lettered"
    EXPIRED = "expired"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class JobError:
    """The reason why a job failed. `message` tells the caller what happened and what to do."""

    code: str
    message: str
    stage: Stage
    retryable: bool


@dataclass(frozen=True, slots=True)
class DeliveryMarks:
    """The times at which one delivery of a job reached each step in a worker.

    `received_at` is by the worker's clock, and `enqueued_at` by the broker's. An attribute that
    ends with `_ms` is a time in milliseconds since `received_at`, by a monotonic clock. It is None
    if the delivery did not reach the step:

        fetched, decoded    the input was read; decoded and preprocessed
        batched, ran        the device took the job in a batch; the model returned
        stored, replied     the result was postprocessed, and stored if it is large; the reply was
                            written, and the worker began to send it
        first_chunk         the model emitted its first chunk

    `chunks` is how many chunks it emitted. If `stream_lost` is true, events of the job could not be
    written to its stream.
    """

    received_at: datetime
    enqueued_at: datetime | None = None
    worker: str | None = None
    device: str | None = None
    fetched_ms: float | None = None
    decoded_ms: float | None = None
    batched_ms: float | None = None
    ran_ms: float | None = None
    stored_ms: float | None = None
    replied_ms: float | None = None
    first_chunk_ms: float | None = None
    chunks: int | None = field(default=None, kw_only=True)
    stream_lost: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one job waited in the queue, and how long its batch of `batch_size` jobs ran.

    `delivery` has the marks of the delivery that led to the reply, as `marks_to_json` returns them;
    older workers do not send them. They are not checked before `marks_from_json` reads them, so
    that a reply is accepted even if they are not valid.
    """

    queued_ms: float = 0.0
    inference_ms: float = 0.0
    batch_size: int = 1
    delivery: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request to run a job, sent to a worker. `inputs` contains the named inputs.

    `reply_to` is None if the producer wants no reply. `attempt` is how often the sender has sent
    the request, counted from 1. It is not the number of the delivery, and workers do not use it.

    If `stream` is true, the worker writes what the model emits to the stream of the job.
    `operation` is the operation of the OpenAI API that the caller has called, or None. `batch` is
    the id of the batch whose line the job is, or None.
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
    inputs: Mapping[str, InputPayload] = field(default_factory=dict)
    stream: bool = False
    operation: str | None = None
    batch: str | None = None

    @property
    def all_inputs(self) -> tuple[InputPayload, ...]:
        """The input and all named inputs."""
        return (self.input, *self.inputs.values())

    @property
    def reply_url(self) -> str | None:
        """The gateway's URL for the reply; None if the reply does not go to the gateway."""
        return self.reply_to.url if isinstance(self.reply_to, ReplyUrl) else None


@dataclass(frozen=True, slots=True)
class JobReply:
    """A worker's reply to a request. `outcome` is either a result or an error.

    `attempt` is the number of the message's delivery that led to the outcome, counted from 1.
    `results` contains the named results. It is empty if `outcome` is an error.
    """

    job_id: str
    outcome: Payload | JobError
    started_at: datetime
    finished_at: datetime
    timing: Timing = Timing()
    attempt: int = 1
    extra: Mapping[str, Json] = field(default_factory=dict)
    results: Mapping[str, Payload] = field(default_factory=dict)


_T = TypeVar("_T")


class Fields:
    """Read and check the fields of a JSON object.

    `path` is the position of the object in the message, for example `error`; it is empty for the
    message itself. The methods raise MalformedMessage, with the path, if a required field is
    missing or null, or if a field has the wrong type.
    """

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise MalformedMessage(
                f"{path or 'message'}: expected an object, found {_json_kind(value)}"
            )
        self._values: Mapping[str, Json] = value
        self._path = path

    @classmethod
    def parse(cls, data: bytes, limit_bytes: int, what: str) -> "Fields":
        """Parse an object that has at most `limit_bytes`. `what` names it in errors."""
        if len(data) > limit_bytes:
            raise MalformedMessage(
                f"{what} has {len(data)} bytes; at most {limit_bytes} are allowed"
            )
        try:
            return cls(json.loads(data))
        except (ValueError, RecursionError):
            raise MalformedMessage(f"{what} is not JSON in UTF-8") from None

    def optional(self, read: Callable[[str], _T], name: str) -> _T | None:
        """Return what the method `read` returns; None if the field is absent or null."""
        return None if self._values.get(name) is None else read(name)

    def text(self, name: str) -> str:
        """Return a string that is not empty."""
        value = self._required(name, str, "a string")
        if not value:
            raise MalformedMessage(f"{self._at(name)}: the text must not be empty")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise MalformedMessage(f"{self._at(name)}: the text is not valid Unicode")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string that is not empty; None if the field is absent or null."""
        return self.optional(self.text, name)

    def integer(self, name: str, minimum: int = 0) -> int:
        """Return a whole number of at least `minimum`."""
        value = self._required(name, (int, float), "a number")
        # JSON Schema counts 1.0 as a whole number. `is_integer` is false for NaN and infinity.
        is_whole = value.is_integer() if isinstance(value, float) else not isinstance(value, bool)
        if not is_whole or value < minimum:
            raise MalformedMessage(
                f"{self._at(name)}: expected a whole number of at least {minimum}"
            )
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number of at least 0. With a default, the field may be absent or null."""
        if default is not None and self._values.get(name) is None:
            return default
        value = self._required(name, (int, float), "a number")
        # This comparison is also false for NaN.
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise MalformedMessage(f"{self._at(name)}: expected a number of at least 0")
        return float(value)

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        return self._required(name, bool, "true or false")

    def time(self, name: str) -> datetime:
        """Return a time in UTC. The field must have the format of RFC 3339, with an offset."""
        text = self.text(name)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            raise MalformedMessage(f"{self._at(name)}: expected an RFC 3339 time with an offset")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise MalformedMessage(
                f"{self._at(name)}: the time is out of range: its year in UTC must be from 1 to "
                "9999"
            ) from None

    def mapping(self, name: str) -> dict[str, Json]:
        """Return an object; an empty one if the field is absent or null."""
        found = self.optional(self.child, name)
        return {} if found is None else dict(found._values)

    def child(self, name: str) -> "Fields":
        """Return a reader of the object in a field."""
        return Fields(self._required(name, Mapping, "an object"), self._at(name))

    def has(self, name: str) -> bool:
        """Return whether the field is present, even if its value is null."""
        return name in self._values

    def raw(self, name: str) -> Json:
        """Return the value of a field, which may be null, without checking its type."""
        if name not in self._values:
            raise MalformedMessage(f"{self._at(name)}: the field is missing")
        return self._values[name]

    def others(self, known: frozenset[str]) -> dict[str, Json]:
        """Return the fields with other names, which a sender with newer code may send."""
        return {name: value for name, value in self._values.items() if name not in known}

    def _required(self, name: str, expected: type[_T] | tuple[type[_T], ...], kind: str) -> _T:
        value = self._values.get(name)
        if value is None:
            raise MalformedMessage(f"{self._at(name)}: the field is missing")
        if not isinstance(value, expected):
            raise MalformedMessage(f"{self._at(name)}: expected {kind}, found {_json_kind(value)}")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "another type")


_SCHEMA_VERSION = 1
# The schema version of requests with named inputs, and of replies with named results.
_NAMES_VERSION = 2

JOB_REQUEST_SCHEMA = Path(__file__).with_name("job-request.schema.json")

# Service Bus Standard accepts 256 KiB including headers and properties.
MAX_MESSAGE_BYTES = 192 * 1024

# Below this size, the second part of the JSON costs more than the encoder's search in the base64.
_INSERTED_BYTES = 2048

# A job id must be valid as an instance id, a message id, part of a blob name and a path segment.
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_REQUEST_FIELDS = frozenset(
    {"schema", "job_id", "model", "input", "parameters"}
    | {"created_at", "deadline", "reply_to", "attempt", "stream", "operation", "batch"}
)
_REPLY_FIELDS = frozenset(
    {"schema", "job_id", "result", "error", "started_at", "finished_at", "timing", "attempt"}
)
_PAYLOAD_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


def encode_request(request: JobRequest) -> bytes:
    """Encode a request as JSON."""
    payload = request.input
    if not isinstance(payload, InlineBytes) or len(payload.data) < _INSERTED_BYTES:
        return _encode(request_to_json(request))
    # The encoder would look for characters to escape in the base64 text, and the text has none. So
    # the text is inserted into the JSON: both parts below are objects, `start` ends with `""}}`.
    content = base64.b64encode(payload.data)
    empty = replace(request, input=InlineBytes(payload.media_type, b""))
    fields = list(request_to_json(empty).items())
    after_input = next(at for at, (name, _) in enumerate(fields, 1) if name == "input")
    start, end = _to_text(dict(fields[:after_input])), _to_text(dict(fields[after_input:]))
    data = b"".join((start[:-3], content, b'"},', end[1:]))
    _check_size(data)
    return data


def decode_request(data: bytes) -> JobRequest:
    """Decode a request."""
    return request_from_json(_decode(data))


def encode_reply(reply: JobReply) -> bytes:
    """Encode a reply as JSON."""
    return _encode(reply_to_json(reply))


def decode_reply(data: bytes) -> JobReply:
    """Decode a reply."""
    return reply_from_json(_decode(data))


def request_to_json(request: JobRequest) -> dict[str, Json]:
    """Return a request as a JSON object."""
    named = {name: _input_to_json(payload) for name, payload in request.inputs.items()}
    return {
        **request.extra,
        **({"stream": True} if request.stream else {}),
        **({"operation": request.operation} if request.operation else {}),
        **({"batch": request.batch} if request.batch else {}),
        "schema": _NAMES_VERSION if named else _SCHEMA_VERSION,
        "job_id": request.job_id,
        "model": request.model,
        "input": _input_to_json(request.input),
        **({"inputs": named} if named else {}),
        "parameters": dict(request.parameters),
        "created_at": format_time(request.created_at),
        "deadline": format_time(request.deadline),
        "reply_to": _reply_to_json(request.reply_to),
        "attempt": request.attempt,
    }


def _reply_to_json(reply_to: ReplyTo | None) -> Json:
    match reply_to:
        case ReplyQueue(queue):
            return {"queue": queue}
        case ReplyUrl(url):
            return {"url": url}
    return None


def request_from_json(value: Json) -> JobRequest:
    """Read a request from a JSON object."""
    fields, has_names = _read_version(value)
    reply_to: ReplyTo | None = None
    if address := fields.optional(fields.child, "reply_to"):
        has_queue = address.has("queue")
        reply_to = ReplyQueue(address.text("queue")) if has_queue else ReplyUrl(address.text("url"))
    return JobRequest(
        job_id=_read_job_id(fields),
        model=fields.text("model"),
        input=_input_from_json(fields.child("input")),
        created_at=fields.time("created_at"),
        deadline=fields.time("deadline"),
        parameters=fields.mapping("parameters"),
        reply_to=reply_to,
        attempt=fields.integer("attempt", minimum=1) if fields.has("attempt") else 1,
        # In a message of schema version 1, `inputs` is an unknown field like any other.
        extra=fields.others(_REQUEST_FIELDS | {"inputs"} if has_names else _REQUEST_FIELDS),
        inputs=_read_named(fields, "input", _input_from_json) if has_names else {},
        stream=fields.optional(fields.boolean, "stream") or False,
        operation=fields.optional_text("operation"),
        batch=fields.optional_text("batch"),
    )


def reply_to_json(reply: JobReply) -> dict[str, Json]:
    """Return a reply as a JSON object."""
    timing = reply.timing
    named = {name: payload_to_json(payload) for name, payload in reply.results.items()}
    outcome = (
        {"error": error_to_json(reply.outcome)}
        if isinstance(reply.outcome, JobError)
        else {"result": payload_to_json(reply.outcome)}
    )
    return {
        **reply.extra,
        "schema": _NAMES_VERSION if named else _SCHEMA_VERSION,
        "job_id": reply.job_id,
        **outcome,
        **({"results": named} if named else {}),
        "started_at": format_time(reply.started_at),
        "finished_at": format_time(reply.finished_at),
        "timing": {
            "queued_ms": timing.queued_ms,
            "inference_ms": timing.inference_ms,
            "batch_size": timing.batch_size,
            **({} if timing.delivery is None else {"delivery": timing.delivery}),
        },
        "attempt": reply.attempt,
    }


def reply_from_json(value: Json) -> JobReply:
    """Read a reply from a JSON object."""
    fields, has_names = _read_version(value)
    result, error = (fields.optional(fields.child, name) for name in ("result", "error"))
    if (result is None) == (error is None):
        raise MalformedMessage("a reply must have exactly one of the fields result and error")
    if has_names and result is None:
        raise MalformedMessage(
            "result: the field is missing, but a reply with named results must have it"
        )
    timing = fields.optional(fields.child, "timing")
    return JobReply(
        job_id=_read_job_id(fields),
        outcome=payload_from_json(result) if result else error_from_json(error),
        started_at=fields.time("started_at"),
        finished_at=fields.time("finished_at"),
        timing=_timing_from_json(timing) if timing else Timing(),
        attempt=fields.integer("attempt", minimum=1) if fields.has("attempt") else 1,
        extra=fields.others(_REPLY_FIELDS | {"results"} if has_names else _REPLY_FIELDS),
        results=_read_named(fields, "result", payload_from_json) if has_names else {},
    )


def payload_to_json(payload: Payload) -> dict[str, Json]:
    """Return a payload as a JSON object that has the key `base64`, `json` or `blob`."""
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
                **without_none({"sha256": sha256, "etag": etag}),
            }


def payload_from_json(fields: Fields) -> Payload:
    """Read a payload from a JSON object."""
    if fields.has("json"):
        return InlineJson(fields.raw("json"))
    media_type = fields.text("media_type")
    if fields.has("base64"):
        return InlineBytes(media_type, _decode_base64(fields.raw("base64")))
    if fields.has("blob"):
        etag = fields.optional_text("etag")
        # Without an ETag only the digest identifies the bytes.
        sha256 = fields.text("sha256") if etag is None else fields.optional_text("sha256")
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise MalformedMessage("sha256: expected 64 hexadecimal digits in lower case")
        blob, size_bytes = fields.text("blob"), fields.integer("size_bytes")
        return PayloadRef(media_type, blob, size_bytes, sha256, etag)
    raise MalformedMessage(
        "the payload has none of the fields base64, json and blob; add one of them"
    )


def _input_to_json(payload: InputPayload) -> dict[str, Json]:
    if not isinstance(payload, PayloadUrl):
        return payload_to_json(payload)
    return without_none({"url": payload.url, "media_type": payload.media_type})


def _input_from_json(fields: Fields) -> InputPayload:
    if fields.has("url"):
        return PayloadUrl(fields.text("url"), fields.optional_text("media_type"))
    return payload_from_json(fields)


def is_payload_name(name: str) -> bool:
    """Return whether a named input or a named result may have this name."""
    return _PAYLOAD_NAME.fullmatch(name) is not None


def _read_named(fields: Fields, kind: str, read: Callable[[Fields], _T]) -> dict[str, _T]:
    """Read the named inputs or results. `kind` is `input` or `result`."""
    named = fields.child(f"{kind}s")
    names = list(named.others(frozenset()))
    if not names:
        raise MalformedMessage(
            f"{kind}s: expected at least one named {kind}, because the schema version is 2"
        )
    for name in names:
        if not is_payload_name(name):
            raise MalformedMessage(
                f"{kind}s: expected names of 1 to 32 lower-case letters, digits and underscores "
                f"that begin with a letter, found {name!r:.100}"
            )
    return {name: read(named.child(name)) for name in names}


def error_to_json(error: JobError) -> dict[str, Json]:
    """Return a job's error as a JSON object."""
    return {**asdict(error), "stage": error.stage.value}


def error_from_json(fields: Fields | None) -> JobError:
    """Read a job's error from a JSON object. Raises MalformedMessage for None."""
    if fields is None:
        raise MalformedMessage("error: the field is missing")
    stage = fields.text("stage")
    if stage not in set(Stage):
        raise MalformedMessage(f"error.stage: expected one of {', '.join(Stage)}")
    return JobError(
        fields.text("code"), fields.text("message"), Stage(stage), fields.boolean("retryable")
    )


def format_time(value: datetime) -> str:
    """Return a time as text in the format of RFC 3339, in UTC and with milliseconds."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode(value: dict[str, Json]) -> bytes:
    data = _to_text(value)
    _check_size(data)
    return data


def _to_text(value: dict[str, Json]) -> bytes:
    # The JSON is ASCII with escapes, because UTF-8 cannot encode half of a surrogate pair.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _decode(data: bytes) -> Json:
    _check_size(data)
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_finite)
    # The parser raises RecursionError for thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(
            f"the message is not JSON in UTF-8 ({type(error).__name__})"
        ) from None


def _refuse_constant(name: str) -> Json:
    raise ValueError(name)  # Python's parser accepts NaN and Infinity, JSON does not


def _parse_finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(len(data), MAX_MESSAGE_BYTES)


def _read_version(value: Json) -> tuple[Fields, bool]:
    """Return the fields of a message, and whether it has named inputs or results."""
    fields = Fields(value)
    version = fields.raw("schema")
    if version not in (_SCHEMA_VERSION, _NAMES_VERSION) or isinstance(version, bool):
        raise UnsupportedSchema(version, _SCHEMA_VERSION, _NAMES_VERSION)
    return fields, version == _NAMES_VERSION


def _read_job_id(fields: Fields) -> str:
    job_id = fields.text("job_id")
    if not _JOB_ID.fullmatch(job_id):
        raise MalformedMessage(
            "job_id: expected 1 to 100 letters, digits, dots, dashes or underscores, of which the "
            "first is a letter or digit"
        )
    return job_id


def _timing_from_json(fields: Fields) -> Timing:
    return Timing(
        queued_ms=fields.number("queued_ms", default=0),
        inference_ms=fields.number("inference_ms", default=0),
        batch_size=fields.integer("batch_size", minimum=1) if fields.has("batch_size") else 1,
        delivery=fields.mapping("delivery") or None,
    )


_MARKS = (
    *("fetched_ms", "decoded_ms", "batched_ms", "ran_ms", "stored_ms", "replied_ms"),
    "first_chunk_ms",
)


def marks_to_json(marks: DeliveryMarks) -> dict[str, Json]:
    """Return the marks of a delivery as a JSON object without the members that are None."""
    enqueued_at = marks.enqueued_at
    values = {
        "received_at": format_time(marks.received_at),
        "enqueued_at": None if enqueued_at is None else format_time(enqueued_at),
        **{name: getattr(marks, name) for name in ("worker", "device", *_MARKS, "chunks")},
        "stream_lost": marks.stream_lost or None,
    }
    return without_none(values)


def without_none(value: Mapping[str, Json]) -> dict[str, Json]:
    """Return the members of a JSON object that are not null."""
    return {name: each for name, each in value.items() if each is not None}


def marks_from_json(fields: Fields) -> DeliveryMarks:
    """Read the marks of a delivery from a JSON object."""
    return DeliveryMarks(
        fields.time("received_at"),
        fields.optional(fields.time, "enqueued_at"),
        fields.optional_text("worker"),
        fields.optional_text("device"),
        *(fields.optional(fields.number, name) for name in _MARKS),
        chunks=fields.optional(fields.integer, "chunks"),
        stream_lost=fields.optional(fields.boolean, "stream_lost") or False,
    )


def _decode_base64(value: Json) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise MalformedMessage("base64: expected a string in base64") from None


# An orchestration's history contains the result. The Azure Storage backend stores a history entry
# of more than 45 KB in a blob and reads it on each replay. Base64 adds a third to the size.
INLINE_LIMIT_BYTES = 24 * 1024
"""The largest size in bytes of all results in a message, and of a payload in a job's history."""

INPUT_INLINE_LIMIT_BYTES = 64 * 1024
"""The default for the largest size in bytes of an input that is part of a message."""


def fits_inline(size_bytes: int, limit_bytes: int = INLINE_LIMIT_BYTES) -> bool:
    """Return whether a payload of this size is small enough to be part of a message."""
    return size_bytes <= limit_bytes


def reference(media_type: str, blob: str, data: bytes) -> PayloadRef:
    """Return a payload reference that describes `data`, which the caller must write to the blob."""
    return PayloadRef(media_type, blob, len(data), hashlib.sha256(data).hexdigest())


def verify(ref: PayloadRef, data: bytes) -> bytes:
    """Return `data` if its size and digest match the reference; otherwise raise PayloadCorrupt."""
    if len(data) != ref.size_bytes:
        raise PayloadCorrupt(
            f"the payload has {len(data)} bytes, but its reference says {ref.size_bytes} bytes"
        )
    verify_digest(ref, hashlib.sha256(data).hexdigest())
    return data


def verify_digest(ref: PayloadRef, sha256: str) -> None:
    """Raise PayloadCorrupt if the reference has a digest that differs from `sha256`."""
    if ref.sha256 is not None and sha256 != ref.sha256:
        raise PayloadCorrupt(
            "the payload's SHA-256 digest differs from the digest in its reference"
        )
