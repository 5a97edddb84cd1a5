"""Storage of dead letters. Each dead letter is a blob named `dead-letters/{queue}/{message id}`.

    {"message_id", "correlation_id", "reason", "description", "delivery_count", "content_type",
     "enqueued_at", "dead_lettered_at", "properties", "body": the body of the message as text,
     "redrive": {"job_id", "at", "is_done", "tried_at"}, present only after a redrive has begun}

The API never shows the body, because it contains the caller's input and the job's reply token.

The API identifies a dead letter by its model and an id. The id is the last part of the blob's name.
For a message from the low-priority queue, `~low` is added to the id. A blob's name never contains
`~`, so an id that ends with `~low` is never the id of another dead letter.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import ModelEntry, Priority, queue_of
from contract.errors import ContractError
from contract.messages import (
    InlineBytes,
    InlineJson,
    InputPayload,
    JobRequest,
    PayloadRef,
    decode_request,
    format_time,
)
from gateway.jobs.model import Time, job_path
from gateway.json_text import encode_json

DEAD_LETTERS: Final = "dead-letters/"

LETTER_ID: Final = "[A-Za-z0-9._-]{1,128}(?:~low)?"
_LOW: Final = "~low"
# With a digest, the last part of the blob's name has at most 128 characters, as a dead letter's id.
_MAX_SAFE_CHARACTERS: Final = 100
_EXAMPLE_ID: Final = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"


def letter_blob(queue: str, message_id: str) -> str:
    """Return the name of the blob of the dead letter with this message id."""
    # Producers choose message ids freely, so characters that a blob name cannot have are replaced.
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in message_id)
    if safe != message_id or not safe.strip("."):
        # Different message ids must still have different blob names.
        digest = hashlib.sha256(message_id.encode("utf-8", "replace")).hexdigest()
        safe = f"{safe[:_MAX_SAFE_CHARACTERS]}-{digest[:12]}"
    return f"{DEAD_LETTERS}{queue}/{safe}"


def letter_id(name: str, priority: Priority) -> str:
    """Return the id in the API of a dead letter, of whose blob's name `name` is the last part."""
    return f"{name}{_LOW}" if priority is Priority.LOW else name


def letter_queue(model: ModelEntry, id_: str) -> str:
    """Return the queue of the model from which the message of the dead letter `id_` came."""
    return queue_of(model, Priority.LOW if id_.endswith(_LOW) else Priority.NORMAL)


def letter_blob_of(model: ModelEntry, id_: str) -> str:
    """Return the name of the blob of the dead letter with this id."""
    return letter_blob(letter_queue(model, id_), id_.removesuffix(_LOW))


@dataclass(frozen=True, slots=True)
class RedriveMark:
    """When a redrive began, which job does the work again, and whether its request was sent.

    `tried_at` is when the latest request to redrive began, or None if that could not send.
    """

    job_id: str
    at: str
    is_done: bool
    tried_at: str | None


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A stored dead letter, and the model to whose queue its message was sent.

    Its `document` in the blob contains secrets. `request` is None if it is not readable, and
    `redrive` is None if no redrive has begun.
    """

    model: ModelEntry
    id: str
    document: dict[str, Any] = field(repr=False)
    request: JobRequest | None = field(repr=False)
    redrive: RedriveMark | None

    @property
    def job_id(self) -> str:
        """The id of the job, or else the message's correlation id, its id, or an empty string."""
        if self.request is not None:
            return self.request.job_id
        return str(self.document.get("correlation_id") or self.document.get("message_id") or "")

    @property
    def is_redriven(self) -> bool:
        """Whether a redrive has sent the request of the dead letter again."""
        return self.redrive is not None and self.redrive.is_done

    @property
    def dead_lettered_at(self) -> datetime | None:
        """When the gateway stored the dead letter; None if this time is unreadable."""
        try:
            return datetime.fromisoformat(self.document["dead_lettered_at"]).astimezone(UTC)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def with_mark(self, redrive: RedriveMark) -> bytes:
        """Return the content of the dead letter's blob with this redrive."""
        return json.dumps({**self.document, "redrive": asdict(redrive)}).encode()


def read_letter(model: ModelEntry, id_: str, data: bytes) -> StoredLetter:
    """Read a dead letter, without unreadable parts, so that it can still be shown and deleted."""
    document = _read_document(data)
    request, redrive = _read_request(document.get("body")), _read_redrive(document)
    return StoredLetter(model, id_, document, request, redrive)


def was_redriven(data: bytes) -> bool:
    """Return whether a redrive has sent the request of the dead letter with this content again."""
    redrive = _read_redrive(_read_document(data))
    return redrive is not None and redrive.is_done


def _read_document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_request(body: object) -> JobRequest | None:
    try:
        return decode_request(body.encode()) if isinstance(body, str) else None
    except (ContractError, ValueError):
        return None


def _read_redrive(document: dict[str, Any]) -> RedriveMark | None:
    match document.get("redrive"):
        case {"job_id": str(job_id), "at": str(at), "is_done": bool(is_done), **others}:
            # A gateway of an earlier version writes no `tried_at`.
            tried_at = others.get("tried_at", at)
            return RedriveMark(job_id, at, is_done, tried_at if isinstance(tried_at, str) else None)
    return None


class LetterInput(TypedDict):
    """The kind, media type and size of a dead letter's input."""

    kind: Literal["inline", "blob", "url"]
    media_type: str | None
    size_bytes: int | None


class LetterLinks(TypedDict):
    """The URL paths that belong to a dead letter.

    `self` is the path of the dead letter. `redrive` is the path of the route that redrives the dead
    letter. `job` is the path of the failed job. `redriven_as` is the path of the job that a redrive
    has created.
    """

    self: str
    redrive: str
    job: str
    redriven_as: NotRequired[str | None]


class DeadLetter(TypedDict):
    """A dead-lettered message in the form in which the API shows it to operators."""

    id: Annotated[str, Field(examples=[_EXAMPLE_ID])]
    model: Annotated[str, Field(examples=["classifier"])]
    queue: Annotated[
        str,
        Field(
            description="The queue from which the message came, and to which a redrive sends.",
            examples=["classifier"],
        ),
    ]
    job_id: Annotated[str, Field(examples=[_EXAMPLE_ID])]
    message_id: str | None
    reason: Annotated[str | None, Field(examples=["MaxDeliveryCountExceeded"])]
    description: str | None
    delivery_count: int | None
    enqueued_at: Time | None
    dead_lettered_at: Time | None
    created_at: Annotated[Time | None, Field(description="Null if the message is not a request.")]
    deadline: Time | None
    input: LetterInput | None
    inputs: Annotated[dict[str, LetterInput], Field(description="The named inputs of the request.")]
    redriven_at: Time | None
    redriven_as: Annotated[
        str | None,
        Field(description="The id of the job that does the work again; null before a redrive."),
    ]
    links: LetterLinks


def letter_resource(letter: StoredLetter) -> DeadLetter:
    """Return what the API shows of a dead letter: no payload, reply token or URL."""
    model = letter.model
    path = f"/v1/admin/dead-letters/{model.name}/{letter.id}"
    document, request, redrive = letter.document, letter.request, letter.redrive
    links: LetterLinks = {
        "self": path,
        "redrive": f"{path}/redrive",
        "job": job_path(letter.job_id),
    }
    if redrive is not None:
        links["redriven_as"] = job_path(redrive.job_id)
    return {
        "id": letter.id,
        "model": model.name,
        "queue": letter_queue(model, letter.id),
        "job_id": letter.job_id,
        "message_id": document.get("message_id"),
        "reason": document.get("reason"),
        "description": document.get("description"),
        "delivery_count": document.get("delivery_count"),
        "enqueued_at": document.get("enqueued_at"),
        "dead_lettered_at": document.get("dead_lettered_at"),
        "created_at": format_time(request.created_at) if request else None,
        "deadline": format_time(request.deadline) if request else None,
        "input": _describe_input(request.input) if request else None,
        "inputs": {
            name: _describe_input(payload)
            for name, payload in (request.inputs if request else {}).items()
        },
        "redriven_at": redrive.at if redrive else None,
        "redriven_as": redrive.job_id if redrive else None,
        "links": links,
    }


def _describe_input(payload: InputPayload) -> LetterInput:
    kind: Literal["inline", "blob", "url"]
    size_bytes: int | None
    match payload:
        case InlineBytes(_, data):
            kind, size_bytes = "inline", len(data)
        case InlineJson(value):
            kind, size_bytes = "inline", len(encode_json(value))
        case PayloadRef():
            kind, size_bytes = "blob", payload.size_bytes
        case _:
            kind, size_bytes = "url", None
    return {
        "kind": kind,
        "media_type": getattr(payload, "media_type", None),
        "size_bytes": size_bytes,
    }
