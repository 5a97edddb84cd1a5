"""Name, encode and decode the notes that workers write about single deliveries of a job.

The reply to a job contains the marks of the delivery that produced the reply: the times at which
the delivery reached each step. Workers describe the job's other deliveries in notes. A worker
writes a note in these cases:

- at the beginning and at the end of a redelivery
- when the worker releases, abandons or dead-letters a message
- when a job has run, but its deadline passed before the reply arrived
- when the model raised an unexpected error: the note has its traceback

In all other cases it writes none. For example, a message that is completed at its first delivery
and before the deadline has no note.

Each delivery has a blob of its own, so that workers never wait for one another. `note_blob` returns
the name of this blob, and the gateway lists the blobs of a job by their prefix. If a worker cannot
write a note, it does not try again. Without a note, the gateway shows that no worker reported the
delivery.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from contract.errors import MalformedMessage
from contract.messages import DeliveryMarks, Fields, Json, marks_from_json, marks_to_json
from contract.names import REPLY_TOKEN_PARAMETER, delivery_notes

MAX_NOTE_BYTES: Final = 4096
"""The size in bytes of the largest note that a gateway reads."""


@dataclass(frozen=True, slots=True)
class DeliveryNote:
    """A worker's note about one delivery of a job.

    Attributes:
        attempt: The number of the delivery, from 1. If a message is released, its next delivery has
            the same number.
        marks: When the delivery reached each step.
        ended_ms: When the worker ended the delivery, in milliseconds since `marks.received_at`;
            None if the delivery had not ended when the worker wrote the note.
        settlement: How the worker settled the message, for example `abandon`; None before the end.
        code: `succeeded`, or the code of the error that ended the delivery; None before the end.
        traceback: The end of the traceback of an unexpected error, for operators; None if there was
            no such error.
    """

    attempt: int
    marks: DeliveryMarks
    ended_ms: float | None = None
    settlement: str | None = None
    code: str | None = None
    traceback: str | None = None


def note_blob(job_id: str, reply_url: str, attempt: int) -> str | None:
    """Return a new name for the blob of a delivery note. Each call returns a different name.

    Return None if the reply URL has no reply token. In this case a producer sent the job, and
    workers write no notes about its deliveries.
    """
    try:
        (token,) = parse_qs(urlsplit(reply_url).query)[REPLY_TOKEN_PARAMETER]
    except (ValueError, KeyError):
        return None
    return f"{delivery_notes(job_id, token)}{attempt:04d}-{secrets.token_hex(8)}"


def encode_note(note: DeliveryNote) -> bytes:
    """Encode a delivery note as JSON. The beginning of a long traceback is left out."""
    value: dict[str, Json] = {"attempt": note.attempt, "marks": marks_to_json(note.marks)}
    for name in ("ended_ms", "settlement", "code"):
        if (found := getattr(note, name)) is not None:
            value[name] = found
    text = (note.traceback or "")[-MAX_NOTE_BYTES:]
    while True:
        data = json.dumps({**value, "traceback": text} if text else value, separators=(",", ":"))
        if len(data) <= MAX_NOTE_BYTES or not text:
            return data.encode()
        text = text[len(text) // 8 + 1 :]


def decode_note(data: bytes) -> DeliveryNote:
    """Decode a delivery note. Raises MalformedMessage if it is not valid."""
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedMessage(
            f"the delivery note has {len(data)} bytes; at most {MAX_NOTE_BYTES} are allowed"
        )
    try:
        fields = Fields(json.loads(data))
    except (ValueError, RecursionError):
        raise MalformedMessage("the delivery note is not JSON in UTF-8") from None
    return DeliveryNote(
        fields.integer("attempt", minimum=1),
        marks_from_json(fields.child("marks")),
        fields.optional_number("ended_ms"),
        fields.optional_text("settlement"),
        fields.optional_text("code"),
        fields.optional_text("traceback"),
    )
