"""The log of ends: how an instance of the app learns of outcomes that another one has recorded.

An instance that records an outcome for which none of its own requests waits appends a line to the
log, an append blob for each minute. Each instance with waiting requests reads what was appended,
in one request for all of them. A lost line delays an answer until the request reads the outcome's
blob itself.
"""

import asyncio
import json
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from contract.errors import ContractError
from contract.names import ENDS
from gateway.clock import Clock
from gateway.jobs.model import JobOutcome, outcome_from_json, outcome_to_json
from gateway.storage.blobs import Blobs
from gateway.storage.logs import LogTail, LogWriter

MAX_LINE_BYTES: Final = 4096
"""The longest line with an outcome. A longer one has only the job id."""

OVERLAP: Final = timedelta(seconds=2)
"""How long the log of the last minute is still read, because clocks differ."""

USED_FOR: Final = timedelta(minutes=1)
"""How long after its last new line the log counts as used."""

ENDS_KEPT: Final = timedelta(minutes=10)
"""How old a log must be before the housekeeping deletes it."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A line of the log: a job has ended. `outcome` is None if it was too long for the line."""

    job_id: str
    outcome: JobOutcome | None


def encode_end(job_id: str, outcome: JobOutcome) -> bytes:
    """Return the line about the end of a job, without a line end."""
    for value in ({"job": job_id, "outcome": outcome_to_json(outcome)}, {"job": job_id}):
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if len(line) <= MAX_LINE_BYTES:
            break
    return line


def parse_end(line: bytes, wanted: Container[str]) -> JobEnd | None:
    """Return the end of a wanted job in a line; None for another job or another program's line."""
    try:
        value = json.loads(line)
        job_id, outcome = value["job"], value.get("outcome")
        if job_id not in wanted:
            return None
        return JobEnd(job_id, None if outcome is None else outcome_from_json(outcome))
    except (ContractError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def log_blob(at: datetime) -> str:
    """Return the name of the log to which ends are appended at this time."""
    return f"{ENDS}{at:%Y%m%dT%H%M}"


class EndsLog:
    """Appends the ends of jobs to the log, and reads those that all instances have appended."""

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._writer = LogWriter(blobs)
        self._tails: list[LogTail] = []
        self._used_at = datetime.min.replace(tzinfo=UTC)

    @property
    def is_used(self) -> bool:
        """Return whether new lines were read in the last minute, as with several instances."""
        return self._clock() - self._used_at < USED_FOR

    async def append(self, job_id: str, outcome: JobOutcome) -> None:
        """Append the end of a job. Raises Unavailable if the storage fails."""
        await self._writer.append(log_blob(self._clock()), encode_end(job_id, outcome))

    async def read(self, wanted: Container[str]) -> list[JobEnd]:
        """Return the ends of wanted jobs that were appended since the last call in this minute.

        The first call in a minute reads all ends of this minute. Raises Unavailable if the storage
        fails; then the next call reads the same ends.
        """
        now = self._clock()
        known = {tail.blob: tail for tail in self._tails}
        names = dict.fromkeys((log_blob(now - OVERLAP), log_blob(now)))
        self._tails = [known.get(name) or LogTail(self._blobs, name) for name in names]
        found = await asyncio.gather(*(tail.read() for tail in self._tails))
        if any(found):
            self._used_at = now
        ends = (parse_end(line, wanted) for lines in found for line in lines)
        return [end for end in ends if end is not None]
