"""The ids of batches and of their lines.

Both are UUIDs of version 8 (RFC 9562, 5.8), while other jobs have version 7:

    48 bits   when the batch was created, in milliseconds since 1970
    58 bits   random
    16 bits   0 in the id of a batch; in the id of a line's job, the line's number, from 1

So the id of a line's job says to which batch and line it belongs.
"""

import secrets
import uuid
from datetime import UTC, datetime
from typing import Final, NamedTuple

MAX_LINES: Final = 50_000
"""How many lines a batch may have."""

_DIGITS: Final = 4
_VERSION: Final = 8


class LineKey(NamedTuple):
    """A line of a batch. Lines are numbered from 1."""

    batch_id: str
    number: int


def new_batch_id(now: datetime) -> str:
    """Return a new id. Ids sort by their time."""
    milliseconds = max(0, int(now.timestamp() * 1000))
    high = secrets.randbits(12) | _VERSION << 12
    low = (secrets.randbits(46) | 0b10 << 46) << 16
    return str(uuid.UUID(int=milliseconds << 80 | high << 64 | low))


def created_at(batch_id: str) -> datetime:
    """Return when a batch was created."""
    return datetime.fromtimestamp((uuid.UUID(batch_id).int >> 80) / 1000, UTC)


def line_id(batch_id: str, number: int) -> str:
    """Return the id of the job of a line."""
    return f"{batch_id[:-_DIGITS]}{number:0{_DIGITS}x}"


def line_of(job_id: str) -> LineKey | None:
    """Return the line to which a job belongs; None for a job that is no line of a batch."""
    number = _number_of(job_id)
    return LineKey(f"{job_id[:-_DIGITS]}{0:0{_DIGITS}x}", number) if number else None


def is_batch_id(text: str) -> bool:
    """Return whether this is the id of a batch, which may not exist."""
    return _number_of(text) == 0


def _number_of(text: str) -> int | None:
    try:
        found = uuid.UUID(text)
    except ValueError:
        return None
    number = found.int & 0xFFFF
    is_ours = str(found) == text and found.version == _VERSION and number <= MAX_LINES
    return number if is_ours else None
