"""Timers that follow the host's clock. All of them share one timer of the event loop."""

import asyncio
import heapq
import logging
from collections.abc import Callable, Hashable

from emulator.clock import UtcClock
from emulator.functions.durable.history import to_micros

_log = logging.getLogger(__name__)

# The clock of the event loop stops while a computer sleeps, and the system clock may be set.
# Therefore, read the host's clock again after this time.
_LONGEST_SLEEP_SECONDS = 20.0


class TimerQueue:
    """Calls functions at given times. A timer can be cancelled by its key.

    For a timer of an orchestration instance, the key is the instance id and the task number.
    """

    def __init__(self, clock: UtcClock) -> None:
        self._clock = clock
        self.heap: list[tuple[int, int]] = []
        self._entries: dict[int, tuple[Hashable, Callable[[], None]]] = {}
        self._numbers: dict[Hashable, int] = {}
        self._next_number = 0
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, key: Hashable, due: int, callback: Callable[[], None]) -> None:
        """Set or replace the timer that calls `callback` at `due`, in microseconds since 1970."""
        self.cancel(key)
        number = self._next_number
        self._next_number += 1
        self._numbers[key] = number
        self._entries[number] = (key, callback)
        heapq.heappush(self.heap, (due, number))
        self._arm()

    def cancel(self, key: Hashable) -> None:
        """Cancel the timer with this key. Do nothing if no timer has this key."""
        number = self._numbers.pop(key, None)
        if number is None:
            return
        del self._entries[number]
        # Cancelled entries stay in the heap until they are more than half of it.
        if len(self.heap) > 64 and len(self.heap) > 2 * len(self._entries):
            self.heap = [entry for entry in self.heap if entry[1] in self._entries]
            heapq.heapify(self.heap)

    def fire_due(self) -> None:
        """Call the functions of all timers that are due."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        now = to_micros(self._clock.now())
        while self.heap and not self._closed:
            due, number = self.heap[0]
            entry = self._entries.get(number)
            if entry is not None and due > now:
                break
            heapq.heappop(self.heap)
            if entry is not None:
                key, callback = entry
                del self._entries[number]
                del self._numbers[key]
                try:
                    callback()
                except Exception:  # noqa: BLE001 - the other timers must still fire
                    _log.exception("the callback of the durable timer %r raised an error", key)
        self._arm()

    def close(self) -> None:
        """Stop the timers. No function is called after this."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._closed or not self.heap:
            return
        due = self.heap[0][0]
        if self._handle is not None:
            if self._wakes_at <= due:
                return
            self._handle.cancel()
        delay = (due - to_micros(self._clock.now())) / 1e6
        self._wakes_at = due
        self._handle = asyncio.get_running_loop().call_later(
            min(max(delay, 0.0), _LONGEST_SLEEP_SECONDS), self.fire_due
        )
