"""Gathers items into batches: what is there when the device is free, after a short wait at most."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """When to start a batch, and of what. Pure: time is an argument, in seconds."""

    def __init__(self, max_batch_size: int, max_wait_seconds: float) -> None:
        self._max_batch_size = max_batch_size
        self._max_wait_seconds = max_wait_seconds
        self._items: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now: float) -> None:
        """An item is ready to run."""
        self._items.append((now, item))

    def take(self, now: float) -> list[T]:
        """The next batch in order of arrival, for a free device; empty where it should wait."""
        if self.wait_seconds(now) != 0.0:
            return []
        size = min(len(self._items), self._max_batch_size)
        return [self._items.popleft()[1] for _ in range(size)]

    def wait_seconds(self, now: float) -> float | None:
        """How long a free device should wait for a fuller batch; None while there is nothing.

        The wait counts from the arrival of the oldest item: one that came while the device was
        busy has mostly waited already.
        """
        if not self._items:
            return None
        if len(self._items) >= self._max_batch_size:
            return 0.0
        return max(0.0, self._items[0][0] + self._max_wait_seconds - now)

    def clear(self) -> list[T]:
        """Everything that has not been taken."""
        items = [item for _, item in self._items]
        self._items.clear()
        return items


class BatchQueue(Generic[T]):
    """A batcher between the threads that prepare items and the one that runs them."""

    def __init__(self, batcher: Batcher[T], clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher = batcher
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: T) -> bool:
        """Hand over an item; False where the queue is closed and the item was not taken."""
        with self._changed:
            if self._closed:
                return False
            self._batcher.add(item, self._clock())
            self._changed.notify()
            return True

    def take(self) -> list[T]:
        """Wait for the next batch; empty once the queue is closed."""
        with self._changed:
            while not self._closed:
                now = self._clock()
                if batch := self._batcher.take(now):
                    return batch
                self._changed.wait(self._batcher.wait_seconds(now))
            return []

    def close(self) -> list[T]:
        """Refuse what comes; returns what had not been taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._batcher.clear()
