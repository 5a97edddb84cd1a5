"""Dead letters as they are kept: one blob each, `dead-letters/{queue}/{message id}`.

    {"message_id", "correlation_id", "reason", "description", "delivery_count", "content_type",
     "enqueued_at", "dead_lettered_at", "properties", "body": the message's own text,
     "redrive": only once it was sent again {"job_id", "at", "is_done"}}

The body holds the caller's input and the job's reply token, so it is never shown.

Operators know a letter by its model and an id: the message's own, and for the queue of low priority
a mark behind it that no id of a message can have.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final

from contract.catalogue import Model
from contract.codec import decode_request, format_time
from contract.errors import ContractError
from contract.messages import InlineBytes, InlineJson, InputPayload, JobRequest, PayloadRef
from contract.names import job_path
from gateway.queueing.priority import Priority, queue_of
from gateway.strict_json import encode

PREFIX: Final = "dead-letters/"

_LOW: Final = "~low"


def letter_blob(queue: str, message_id: str) -> str:
    """Name of the blob that keeps a dead letter."""
    # Internal producers choose their own message ids: only what a blob name bears.
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in message_id)
    if safe != message_id or not safe.strip("."):
        # What looks the same by now is another letter all the same.
        digest = hashlib.sha256(message_id.encode("utf-8", "replace")).hexdigest()
        safe = f"{safe}-{digest[:12]}"
    return f"{PREFIX}{queue}/{safe}"


def id_of(name: str, priority: Priority) -> str:
    """The id by which operators know the letter that is kept under this name in its queue."""
    return f"{name}{_LOW}" if priority is Priority.LOW else name


def letter_queue(model: Model, id_: str) -> str:
    """The queue that the letter with this id comes from."""
    return queue_of(model, Priority.LOW if id_.endswith(_LOW) else Priority.NORMAL)


def blob_of(model: Model, id_: str) -> str:
    """Name of the blob that keeps the letter with this id."""
    return letter_blob(letter_queue(model, id_), id_.removesuffix(_LOW))


@dataclass(frozen=True, slots=True)
class Redrive:
    """That a letter was sent again, as which job, and whether that is known to have been done."""

    job_id: str
    at: str
    is_done: bool


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `document` is the blob's own JSON, with what nobody may see in it."""

    id: str
    document: dict[str, Any] = field(repr=False)
    request: JobRequest | None = field(repr=False)
    redrive: Redrive | None

    @property
    def job_id(self) -> str:
        """The job that the message was for."""
        if self.request is not None:
            return self.request.job_id
        return str(self.document.get("correlation_id") or self.document.get("message_id") or "")

    def marked(self, redrive: Redrive) -> bytes:
        """The blob's bytes once the letter was sent again."""
        mark = {"job_id": redrive.job_id, "at": redrive.at, "is_done": redrive.is_done}
        return json.dumps({**self.document, "redrive": mark}).encode()


def read(id_: str, data: bytes) -> Letter:
    """The letter in these bytes. What cannot be read of it is absent, so that it can be purged."""
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    return Letter(id_, document, _request(document.get("body")), _redrive(document))


def _request(body: object) -> JobRequest | None:
    try:
        return decode_request(body.encode()) if isinstance(body, str) else None
    except (ContractError, ValueError):
        return None


def _redrive(document: dict[str, Any]) -> Redrive | None:
    match document.get("redrive"):
        case {"job_id": str(job_id), "at": str(at), "is_done": bool(is_done)}:
            return Redrive(job_id, at, is_done)
    return None


def resource(letter: Letter, model: Model) -> dict[str, Any]:
    """The letter for operators: no payload, no token, no address."""
    path = f"/v1/admin/dead-letters/{model.name}/{letter.id}"
    document, request, redrive = letter.document, letter.request, letter.redrive
    links = {"self": path, "redrive": f"{path}/redrive", "job": job_path(letter.job_id)}
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
        "input": _input(request.input) if request else None,
        "redriven_at": redrive.at if redrive else None,
        "redriven_as": redrive.job_id if redrive else None,
        "links": links,
    }


def _input(payload: InputPayload) -> dict[str, Any]:
    """What the input is, and not what is in it."""
    size_bytes: int | None
    match payload:
        case InlineBytes(_, data):
            kind, size_bytes = "inline", len(data)
        case InlineJson(value):
            kind, size_bytes = "inline", len(encode(value))
        case PayloadRef():
            kind, size_bytes = "blob", payload.size_bytes
        case _:
            kind, size_bytes = "url", None
    return {
        "kind": kind,
        "media_type": getattr(payload, "media_type", None),
        "size_bytes": size_bytes,
    }
