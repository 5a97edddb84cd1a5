"""The stream of a job: the events that a worker writes to a log while the job runs.

The id of an event is `ATTEMPT-NUMBER`. The log of each attempt begins with the event `attempt`,
whose number is 0. If a later attempt has begun, what an earlier one has written after it does not
count. In an append blob, each event is a line of JSON:

    {"id": "1-3", "event": "chunk", "data": "Paris"}

This module also has the log of stop orders, from which workers learn that a running job must stop.
"""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from contract.errors import MalformedMessage
from contract.messages import Json

MAX_CHUNK_BYTES: Final = 64 * 1024
"""The largest size of a chunk, encoded as JSON."""

MAX_STREAM_BYTES: Final = 32 * 1024 * 1024
"""The largest total size of the chunks of one attempt."""

REDIS_FIELD: Final = "event"
"""The only field of an entry in a Redis Stream. Its value is the line of the event."""

STREAMS: Final = "streams/"
STOPS: Final = "stops/"

EventId = tuple[int, int]
"""The attempt and the number of an event, in the order in which events count."""

BEFORE_ALL: Final[EventId] = (0, 0)
"""An id before the ids of all events."""


class StreamEventType(StrEnum):
    """What an event says. Only readers make the event `end`; it is not in the log."""

    CHUNK = "chunk"
    PROGRESS = "progress"
    ATTEMPT = "attempt"
    END = "end"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a job's stream. `data` of a chunk is a string or another JSON value."""

    attempt: int
    number: int
    type: StreamEventType
    data: Json = None

    @property
    def key(self) -> EventId:
        """The attempt and the number, by which events are sorted."""
        return self.attempt, self.number

    @property
    def id(self) -> str:
        """The id as callers see it, such as `1-3`."""
        return format_event_id(self.key)


def format_event_id(key: EventId) -> str:
    """Return an event id as callers see it."""
    return f"{key[0]}-{key[1]}"


_ID: Final = re.compile(r"([0-9]{1,9})-([0-9]{1,9})", re.ASCII)


def parse_event_id(text: str) -> EventId:
    """Read an id such as `1-3`. Raises MalformedMessage."""
    if (found := _ID.fullmatch(text)) is None:
        raise MalformedMessage("expected the id of an event, such as 1-3")
    return int(found[1]), int(found[2])


def encode_event(event: StreamEvent) -> bytes:
    """Return an event as a line of a log, without a line end."""
    return join_event(event.key, event.type, encode_data(event.data))


def encode_data(data: Json) -> bytes:
    """Return the data of an event as JSON. Raises TypeError or ValueError if JSON cannot."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def join_event(key: EventId, event_type: StreamEventType, data: bytes) -> bytes:
    """Return an event, whose data is JSON, as a line of a log."""
    text = f'{{"id":"{format_event_id(key)}","event":"{event_type.value}","data":'
    return b"".join((text.encode(), data, b"}"))


def parse_event(line: bytes) -> StreamEvent | None:
    """Read a line of a log. Return None if it is not an event that this program knows."""
    try:
        value = json.loads(line)
        attempt, number = parse_event_id(value["id"])
        return StreamEvent(attempt, number, StreamEventType(value["event"]), value["data"])
    except (MalformedMessage, ValueError, KeyError, TypeError, RecursionError):
        return None


def stream_blob(job_id: str) -> str:
    """Return the name of the append blob that contains the stream of a job."""
    return f"{STREAMS}{job_id}"


def stream_key(job_id: str) -> str:
    """Return the name of the Redis stream that contains the stream of a job."""
    return f"loosely:stream:{job_id}"


def stop_log(at: datetime) -> str:
    """Return the name of the log to which orders to stop a running job are appended at `at`."""
    return f"{STOPS}{at:%Y%m%dT%H%M}"


def encode_stop(job_id: str) -> bytes:
    """Return the line that orders the worker of a job to stop it, without a line end."""
    return json.dumps({"job": job_id}).encode()


def parse_stop(line: bytes) -> str | None:
    """Return the id of the job in a line of the log of stop orders; None for another line."""
    try:
        job_id = json.loads(line)["job"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return job_id if isinstance(job_id, str) else None
