"""The data of a batch: what was asked for, and how far it is.

spec    what the caller asked for; never changes
state   how far the batch is; only the step of its orchestration replaces it
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from contract.messages import Json

MAX_PROBLEMS: Final = 100
"""How many refused lines are named."""

SEGMENT_LINES: Final = 250
SEGMENT_BYTES: Final = 2 * 1024 * 1024
"""How large a segment may be. A segment is the part of a batch that is read and ended at once."""


class BatchStatus(StrEnum):
    """The status of a batch. A final status never changes."""

    VALIDATING = "validating"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    """All lines have ended. Some may have failed."""
    FAILED = "failed"
    """The file was refused, and nothing ran."""
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended."""
        return self not in {BatchStatus.VALIDATING, BatchStatus.RUNNING, BatchStatus.CANCELLING}


@dataclass(frozen=True, slots=True)
class LineProblem:
    """Why a line is refused. `line` is its number from 1; 0 if the problem is the whole file's."""

    line: int
    code: str
    message: str
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """What the caller asked for. Times are RFC 3339 text.

    `blob` has the lines as they were given: an upload, a file, or the items of the request.
    """

    id: str
    tenant: str
    model: str
    """The name that the caller gave. With versions, each line chooses one, as a job does."""
    created_at: str
    deadline: str
    blob: str
    etag: str | None = None
    operation: str | None = None
    """The operation of the OpenAI API if the lines have its form; None for our own form."""
    label: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    """Parameters of lines that have none of this name."""
    webhook_url: str | None = field(default=None, repr=False)
    traceparent: str | None = None
    is_pinned: bool = False
    """Whether `model` names a version."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What an API shows and nothing else reads, such as the id of OpenAI's input file."""

    @property
    def deadline_at(self) -> datetime:
        """When the batch expires."""
        return datetime.fromisoformat(self.deadline)

    def encode(self) -> bytes:
        """Return the spec as JSON."""
        return _encode(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> "BatchSpec":
        """Return the spec in JSON text, whose unknown members are ignored."""
        return cls(**_known(cls, json.loads(data)))


@dataclass(slots=True)
class SegmentLog:
    """What was read of the log of a segment's ends: up to `offset`.

    Bit N of `ended` is 1 if the segment's line N (from 0) has ended.
    """

    offset: int = 0
    ended: int = 0


@dataclass(slots=True)
class BatchState:
    """How far a batch is. Times are RFC 3339 text."""

    status: BatchStatus = BatchStatus.VALIDATING
    segments: list[int] = field(default_factory=list)
    """The number of lines of each segment."""
    sent: int = 0
    """How many lines have been sent, from the first one on."""
    logs: dict[int, SegmentLog] = field(default_factory=dict)
    """The logs of segments that have sent lines and are not in the output yet, by their index."""
    composed: int = 0
    """How many segments are in the output."""
    results_bytes: int = 0
    errors_bytes: int = 0
    """The lengths of the output of these segments."""
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    error_codes: dict[str, int] = field(default_factory=dict)
    problems: list[LineProblem] = field(default_factory=list)
    """Why the file was refused."""
    started_at: str | None = None
    finished_at: str | None = None
    updated_at: str | None = None
    rate: float | None = None
    """How many lines ended in a second of late."""
    measured_at: str | None = None
    measured: int = 0
    """When the rate was measured, and how many lines had ended then."""

    @property
    def total(self) -> int:
        """How many lines the batch has; 0 until the file is checked."""
        return sum(self.segments)

    @property
    def ended(self) -> int:
        """How many lines have ended."""
        return self.succeeded + self.failed + self.expired + self.cancelled

    @property
    def in_flight(self) -> int:
        """How many lines were sent and have not ended."""
        return max(0, self.sent - self.ended)

    def encode(self) -> bytes:
        """Return the state as JSON."""
        value = asdict(self)
        value["logs"] = {
            str(index): [log.offset, f"{log.ended:x}"] for index, log in self.logs.items()
        }
        return _encode(value)

    @classmethod
    def decode(cls, data: bytes) -> "BatchState":
        """Return the state in JSON text, whose unknown members are ignored."""
        value = _known(cls, json.loads(data))
        value["status"] = BatchStatus(value["status"])
        value["problems"] = [LineProblem(**each) for each in value.get("problems", ())]
        value["logs"] = {
            int(index): SegmentLog(offset, int(ended, 16))
            for index, (offset, ended) in value.get("logs", {}).items()
        }
        return cls(**value)


def segment_of(segments: list[int], number: int) -> tuple[int, int]:
    """Return the segment of a line (from 1), and the line's place in it, both from 0.

    Raises IndexError if the batch has no such line.
    """
    place = number - 1
    for index, count in enumerate(segments):
        if place < count:
            return index, place
        place -= count
    raise IndexError(number)


def _encode(value: Mapping[str, Json]) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _known(kind: type, value: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: each for name, each in value.items() if name in names}
