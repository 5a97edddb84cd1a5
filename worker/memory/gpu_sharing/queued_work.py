"""Find out whether a model that is not loaded has work, by peeking, which locks nothing."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from worker.errors import BrokerAway

_log = logging.getLogger(__name__)

_PEEK_INTERVAL_SECONDS = 0.5
_MAX_SKIPPED_COUNT = 100


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message in a queue, locked or not."""

    sequence_number: int
    enqueued_at: datetime


class QueueView(Protocol):
    """A view of one queue."""

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return messages from this number on, in order; raise BrokerAway if that fails."""
        ...


class QueuedWork:
    """The oldest message in a model's queues. Belongs to one thread.

    Peeking does not show which messages other workers have locked. So if a model was loaded and
    received nothing, the messages of that time are skipped for as long as a lock lasts.
    """

    def __init__(
        self,
        queues: Sequence[QueueView],
        lock_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queues = queues
        self._lock_seconds = lock_seconds
        self._clock = clock
        self._peeked_at = float("-inf")
        self._since: float | None = None
        self._skipped_numbers = [0] * len(queues)
        self._skip_until = float("-inf")

    def since(self) -> float | None:
        """Return since when the oldest message waits, by our clock; None without messages."""
        now = self._clock()
        if now - self._peeked_at >= _PEEK_INTERVAL_SECONDS:
            self._peeked_at = now
            found = [each for index in range(len(self._queues)) for each in self._peek(index, 1)]
            ages = [(datetime.now(UTC) - each.enqueued_at).total_seconds() for each in found]
            self._since = now - max(0.0, *ages) if ages else None
        return self._since

    def skip_current(self) -> None:
        """Skip the messages of this moment for a while: other workers have them."""
        for index in range(len(self._queues)):
            found = self._peek(index, _MAX_SKIPPED_COUNT)
            numbers = (each.sequence_number for each in found)
            self._skipped_numbers[index] = max(numbers, default=0)
        self._skip_until = self._clock() + self._lock_seconds
        self._peeked_at = float("-inf")
        self._since = None

    def _peek(self, index: int, count: int) -> list[Peeked]:
        is_skipping = self._clock() < self._skip_until
        first = self._skipped_numbers[index] + 1 if is_skipping else 1
        try:
            return self._queues[index].peek(first, count)
        except BrokerAway as error:
            _log.debug("cannot peek into a queue: %s", error)
            return []
