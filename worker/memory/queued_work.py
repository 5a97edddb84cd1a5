"""Find out whether messages wait for a model that is not loaded.

The messages are peeked, which means that they are read without being locked.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from worker.brokers.port import Peeked
from worker.errors import BrokerUnavailable

_log = logging.getLogger(__name__)

_PEEK_INTERVAL_SECONDS = 0.5
_MAX_SKIPPED_COUNT = 100


class QueueView(Protocol):
    """A queue from which messages can be read without locking them, for example a `QueueLink`."""

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return up to `count` messages from this sequence number, or raise BrokerUnavailable."""


class QueuedWork:
    """Finds the oldest message in a model's queues. Only one thread may use this object.

    The broker does not show which messages other workers have locked. So this worker may load the
    model for locked messages, and then receive none. After it has unloaded the model again, the
    caller calls `skip_current`, and `since` ignores these messages while their locks may last.
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
        """Return when the oldest message was queued; None without one, or if no queue answers."""
        now = self._clock()
        if now - self._peeked_at >= _PEEK_INTERVAL_SECONDS:
            self._peeked_at = now
            found = [each for index in range(len(self._queues)) for each in self._peek(index, 1)]
            ages = [(datetime.now(UTC) - each.enqueued_at).total_seconds() for each in found]
            self._since = now - max(0.0, *ages) if ages else None
        return self._since

    def skip_current(self) -> None:
        """Ignore the messages that are in the queues now, for the duration of a message lock."""
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
        except BrokerUnavailable as error:
            _log.debug(
                "peeking into a queue failed; the worker treats the queue as empty: %s", error
            )
            return []
