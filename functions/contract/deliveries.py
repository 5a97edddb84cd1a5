"""Name, encode and decode the notes that workers write about single deliveries of a job.

The reply to a job contains the marks of the delivery that produced it. Workers describe the job's
other deliveries in notes. A worker writes a note in these cases, and in no other:

- at the beginning and at the end of a redelivery
- when the worker releases, abandons or dead-letters a message
- when a job has run, but its deadline passed before the reply arrived
- when the model raised an unexpected error: the note has its traceback

Each delivery has a blob of its own, so that workers never wait for one another. The gateway lists
the blobs of a job by their prefix. If a worker cannot write a note, it does not try again. Without
a note, the gateway shows that no worker reported the delivery.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from contract.messages import DeliveryMarks, Fields, marks_from_json, marks_to_json, without_none
from contract.names import REPLY_TOKEN_PARAMETER, delivery_notes

MAX_NOTE_BYTES: Final = 4096
"""The size in bytes of the largest note that a gateway reads."""


@dataclass(frozen=True, slots=True)
class DeliveryNote:
    """A worker's note about one delivery of a job.

    `attempt` is the number of the delivery, from 1. After a release, the next delivery has the same
    number. `ended_ms` is in milliseconds since `marks.received_at`. `settlement` is for example
    `abandon`. `code` is `succeeded` or the code of an error. These three are None in a note that
    was written before the end. `traceback` is the end of an unexpected error's traceback.
    """

    attempt: int
    marks: DeliveryMarks
    ended_ms: float | None = None
    settlement: str | None = None
    code: str | None = None
    traceback: str | None = None


def note_blob(job_id: str, reply_url: str, attempt: int) -> str | None:
    """Return a new name for the blob of a delivery note. Each call returns a different name.

    Without a reply token in the URL, a producer sent the job, which gets no notes: return None.
    """
    try:
        (token,) = parse_qs(urlsplit(reply_url).query)[REPLY_TOKEN_PARAMETER]
    except (ValueError, KeyError):
        return None
    return f"{delivery_notes(job_id, token)}{attempt:04d}-{secrets.token_hex(8)}"


def encode_note(note: DeliveryNote) -> bytes:
    """Encode a delivery note as JSON. The beginning of a long traceback is left out."""
    given = {**asdict(note), "marks": marks_to_json(note.marks), "traceback": None}
    value = without_none(given)
    text = (note.traceback or "")[-MAX_NOTE_BYTES:]
    while True:
        data = json.dumps({**value, "traceback": text} if text else value, separators=(",", ":"))
        if len(data) <= MAX_NOTE_BYTES or not text:
            return data.encode()
        text = text[len(text) // 8 + 1 :]


def decode_note(data: bytes) -> DeliveryNote:
    """Decode a delivery note. Raises MalformedMessage if it is not valid."""
    fields = Fields.parse(data, MAX_NOTE_BYTES, "the delivery note")
    return DeliveryNote(
        fields.integer("attempt", minimum=1),
        marks_from_json(fields.child("marks")),
        fields.optional(fields.number, "ended_ms"),
        fields.optional_text("settlement"),
        fields.optional_text("code"),
        fields.optional_text("traceback"),
    )
