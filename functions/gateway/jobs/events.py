"""A job's life as server-sent events (WHATWG HTML, section 9.2): what has changed since the last.

An event's id says where in its life the job was, not which message it is:

    <phase>.<attempt>.<sequence>     phase: 0 queued, 1 running, 2 cancelling, 3 final

Ids only grow, so any instance of the gateway can go on after `Last-Event-ID`, and keeps nothing.
What happened in between is not told again: the job in the next event says it all.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from contract.status import JobStatus
from gateway.jobs.progress import Progress
from gateway.jobs.record import Record
from gateway.strict_json import encode

HEARTBEAT: Final = b": still here\n\n"
RECONNECT_SECONDS: Final = 2

_PHASES: Final = {JobStatus.QUEUED: 0, JobStatus.RUNNING: 1, JobStatus.CANCELLING: 2}
_FINAL: Final = 3
_ID: Final = re.compile(r"([0-3])\.([0-9]{1,9})\.([0-9]{1,9})")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in its life a job is. Ordered; a final job's place is the last."""

    phase: int
    attempt: int = 0
    sequence: int = 0

    @classmethod
    def of(cls, record: Record, progress: Progress) -> Self:
        """The place of a job with this record, of which this is known besides."""
        status = JobStatus(record["status"])
        if status.is_final:
            return cls(_FINAL)
        report = progress.report
        return cls(_PHASES[status], *(report.place if report else (0, 0)))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The place with this id; None where it is no id of ours."""
        found = _ID.fullmatch(text)
        return cls(*map(int, found.groups())) if found else None

    @property
    def is_final(self) -> bool:
        """Whether no event can come after this one."""
        return self.phase == _FINAL

    def __str__(self) -> str:
        return f"{self.phase}.{self.attempt}.{self.sequence}"


def event(before: Place | None, now: Place, job: dict[str, Any]) -> bytes:
    """The event that takes a reader from `before` to `now`."""
    if now.is_final:
        name = "final"
    else:
        name = "status" if before is None or before.phase != now.phase else "progress"
    # The JSON has no line breaks, so that one line of data holds it.
    return b"event: %s\nid: %s\ndata: %s\n\n" % (name.encode(), str(now).encode(), encode(job))
