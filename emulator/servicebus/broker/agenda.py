"""Who is due when: locks that expire, messages that expire, messages that become active."""

from datetime import datetime
from heapq import heapify, heappop, heappush

_STALE_TOLERATED = 64


class Agenda:
    """At most one instant for each key; replaced and forgotten ones are skipped when met.

    The heap is rebuilt when more than half of it is stale, so its size follows the number of
    keys, and the cost of that is spread over the changes that made it stale.
    """

    __slots__ = ("_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[int, datetime] = {}
        self._heap: list[tuple[datetime, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: int, due_at: datetime | None) -> None:
        """Let the key be due at this instant alone, or never."""
        if self._due.get(key) == due_at:
            return
        if due_at is None:
            del self._due[key]
        else:
            self._due[key] = due_at
            heappush(self._heap, (due_at, key))
        if len(self._heap) > 2 * len(self._due) + _STALE_TOLERATED:
            self._heap = [(due_at, key) for key, due_at in self._due.items()]
            heapify(self._heap)

    def next_due_at(self) -> datetime | None:
        """Return the earliest instant at which anything is due."""
        while self._heap:
            due_at, key = self._heap[0]
            if self._due.get(key) == due_at:
                return due_at
            heappop(self._heap)
        return None

    def take_due(self, now: datetime) -> int | None:
        """Take the key that has been due for longest, or None when nothing is."""
        due_at = self.next_due_at()
        if due_at is None or due_at > now:
            return None
        _, key = heappop(self._heap)
        del self._due[key]
        return key
