"""The message ids that a queue has seen lately."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message id, when it came, and the sequence number that it was given."""

    sequence_number: int
    message_id: str
    seen_at: datetime


class DuplicateHistory:
    """Remembers each message id for a window of time, counted from its first sighting."""

    def __init__(self) -> None:
        self._sequence_numbers: dict[str, int] = {}
        self._sightings: deque[Sighting] = deque()
        self._uncommitted: list[Sighting] = []
        self.forgotten_count = 0
        """How many sightings were forgotten since ``purged``."""
        self.forgotten_through = 0
        """The highest sequence number whose sighting is forgotten."""

    def __len__(self) -> int:
        return len(self._sightings)

    def load(self, sighting: Sighting) -> None:
        """Remember a sighting that the disk holds already; to be called in their order."""
        self._sightings.append(sighting)
        self._sequence_numbers[sighting.message_id] = sighting.sequence_number

    def forget(self, now: datetime, window: timedelta) -> None:
        """Let go of what was seen longer ago than the window."""
        horizon = now - window
        while self._committed_count and self._sightings[0].seen_at <= horizon:
            sighting = self._sightings.popleft()
            # The disk forgets later, so after a restart an id may have been seen a second time.
            if self._sequence_numbers[sighting.message_id] == sighting.sequence_number:
                del self._sequence_numbers[sighting.message_id]
            self.forgotten_count += 1
            self.forgotten_through = sighting.sequence_number

    @property
    def _committed_count(self) -> int:
        return len(self._sightings) - len(self._uncommitted)

    def purged(self) -> None:
        """Take note that the disk has let go of all that is forgotten."""
        self.forgotten_count = 0

    def find(self, message_id: str) -> int | None:
        """Return the sequence number of the message with this id, if it was seen."""
        return self._sequence_numbers.get(message_id)

    def record(self, sighting: Sighting) -> None:
        """Remember a message id that was not there, until the transaction is taken back."""
        self.load(sighting)
        self._uncommitted.append(sighting)

    def uncommitted(self) -> list[Sighting]:
        """Return what was recorded since the last commit."""
        return self._uncommitted

    def commit(self) -> None:
        """Let the recorded sightings stand."""
        self._uncommitted = []

    def rollback(self) -> None:
        """Forget the sightings that were recorded since the last commit."""
        for sighting in reversed(self._uncommitted):
            self._sightings.pop()
            del self._sequence_numbers[sighting.message_id]
        self._uncommitted = []
