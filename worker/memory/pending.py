"""Whether a model that is not loaded has work: a look into its queues, which locks nothing."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from worker.errors import BrokerAway

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message that is in a queue, locked or not."""

    sequence_number: int
    enqueued_at: datetime


class Window(Protocol):
    """A look into one queue."""

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Messages from this number on, by number; BrokerAway."""
        ...


class Pending:
    """The oldest message of a model's queues. Belongs to one thread.

    A look cannot tell what is locked by other workers. So where a model was loaded and received
    nothing, what lay there then counts as somebody else's for as long as a lock lasts.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        lock_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows = windows
        self._lock_seconds = lock_seconds
        self._clock = clock
        self._looked_at = float("-inf")
        self._since: float | None = None
        self._passed_over = [0] * len(windows)
        self._pass_over_until = float("-inf")

    def since(self) -> float | None:
        """Since when the oldest message waits, on our clock; None where nothing is seen to wait."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            found = [each for at in range(len(self._windows)) for each in self._look(at, 1)]
            ages = [(datetime.now(UTC) - each.enqueued_at).total_seconds() for each in found]
            self._since = now - max(0.0, *ages) if ages else None
        return self._since

    def was_in_vain(self) -> None:
        """The model was loaded and nothing came: what lies there now is not for us."""
        for at in range(len(self._windows)):
            found = self._look(at, 100)
            self._passed_over[at] = max((each.sequence_number for each in found), default=0)
        self._pass_over_until = self._clock() + self._lock_seconds
        self.look_anew()

    def look_anew(self) -> None:
        """What was seen is old: look at the next opportunity."""
        self._looked_at = float("-inf")
        self._since = None

    def _look(self, at: int, count: int) -> list[Peeked]:
        passes_over = self._clock() < self._pass_over_until
        first = self._passed_over[at] + 1 if passes_over else 1
        try:
            return self._windows[at].peek(first, count)
        except BrokerAway as error:
            _log.debug("cannot look into a queue: %s", error)
            return []
