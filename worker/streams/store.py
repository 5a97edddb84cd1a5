"""The port between the writer of streams and what stores their logs.

Each append says where the writer believes that the log ends. So an append that is repeated after a
lost response has no second effect, and a writer whose job runs elsewhere by now cannot append.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

from contract.streams import BEFORE_ALL, EventId


class LogsUnavailable(Exception):
    """The store did not do what it was asked to do, or possibly did it. It may work later."""


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a log ends: the id of its last event, and its size if the store needs it."""

    last: EventId = BEFORE_ALL
    size_bytes: int = 0


EMPTY: Final = LogEnd()
"""The end of a log that does not exist."""


@dataclass(frozen=True, slots=True)
class Append:
    """Events that follow the end of a job's log: their ids, and their lines without line ends."""

    job_id: str
    end: LogEnd
    events: Sequence[tuple[EventId, bytes]]

    @property
    def data(self) -> bytes:
        """The lines with their line ends."""
        return b"".join(line + b"\n" for _, line in self.events)

    @property
    def new_end(self) -> LogEnd:
        """Where the log ends after this append."""
        return LogEnd(self.events[-1][0], self.end.size_bytes + len(self.data))


class Appended(Enum):
    """What became of an append.

    WRITTEN: The log has the events, from this append or from an earlier one with the same events.
    REFUSED: The log does not end where the writer believes, so nothing was appended.
    UNKNOWN: The store failed. Append the same events again.
    """

    WRITTEN = auto()
    REFUSED = auto()
    UNKNOWN = auto()


class WritableLogs(Protocol):
    """Stores the logs of streams. Several threads call the methods."""

    max_appends: int
    """How many calls of `append` may run at the same time."""

    jobs_per_append: int
    """How many logs one call of `append` may append to."""

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        """Append to several logs, and return what became of each append."""

    def read_end(self, job_id: str) -> LogEnd:
        """Return where a log ends. Raises LogsUnavailable."""

    def close(self) -> None:
        """Close the connections."""
