"""Gathers items into batches: what is there when the device is free, after a short wait at most."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    item: T
    since: float
    cost: float


class Batcher(Generic[T]):
    """When to start a batch, and of what. Pure: time is an argument, in seconds.

    A batch holds at most `max_batch_size` items that cost at most `max_cost` together, in whatever
    unit the model counts; one item goes alone however much it costs. `max_cost` may change between
    two batches.
    """

    def __init__(self, max_batch_size: int, max_wait_seconds: float, max_cost: float = inf) -> None:
        self._max_batch_size = max_batch_size
        self._max_wait_seconds = max_wait_seconds
        self.max_cost = max_cost
        self._normal: deque[_Waiting[T]] = deque()
        self._low: deque[_Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self._normal) + len(self._low)

    def add(self, item: T, now: float, cost: float = 1.0, *, is_low: bool = False) -> None:
        """An item is ready to run. One that `is_low` may wait for all that are not."""
        (self._low if is_low else self._normal).append(_Waiting(item, now, cost))

    def take(self, now: float) -> list[T]:
        """The next batch in order of arrival, for a free device; empty where it should wait."""
        if self.wait_seconds(now) != 0.0:
            return []
        size, _ = self._measure()
        return [(self._normal or self._low).popleft().item for _ in range(size)]

    def wait_seconds(self, now: float) -> float | None:
        """How long a free device should wait for a fuller batch; None while there is nothing.

        The wait counts from the arrival of the oldest item: one that came while the device was
        busy has mostly waited already.
        """
        heads = [items[0].since for items in (self._normal, self._low) if items]
        if not heads:
            return None
        _, is_full = self._measure()
        return 0.0 if is_full else max(0.0, min(heads) + self._max_wait_seconds - now)

    def clear(self) -> list[T]:
        """Everything that has not been taken."""
        items = [waiting.item for waiting in self._in_order()]
        self._normal.clear()
        self._low.clear()
        return items

    def _measure(self) -> tuple[int, bool]:
        """How many items the next batch takes, and whether no more would go into it."""
        size, cost = 0, 0.0
        for waiting in self._in_order():
            cost += waiting.cost
            if size and cost > self.max_cost:
                return size, True
            size += 1
            if size == self._max_batch_size or cost >= self.max_cost:
                return size, True
        return size, False

    def _in_order(self) -> Iterator[_Waiting[T]]:
        return chain(self._normal, self._low)


class BatchQueue(Generic[T]):
    """A batcher between the threads that prepare items and the one that runs them."""

    def __init__(self, batcher: Batcher[T], clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher = batcher
        self._clock = clock
        self._changed = threading.Condition()
        self._paused = False
        self._closed = False

    def put(self, item: T, cost: float = 1.0, *, is_low: bool = False) -> bool:
        """Hand over an item; False where the queue takes none now."""
        with self._changed:
            if self._closed or self._paused:
                return False
            self._batcher.add(item, self._clock(), cost, is_low=is_low)
            self._changed.notify()
            return True

    def take(self, max_cost: float = inf) -> list[T]:
        """Wait for the next batch; empty once the queue is closed, or while it is paused."""
        with self._changed:
            self._batcher.max_cost = max_cost
            while not (self._closed or self._paused):
                now = self._clock()
                if batch := self._batcher.take(now):
                    return batch
                self._changed.wait(self._batcher.wait_seconds(now))
            return []

    def pause(self) -> list[T]:
        """Refuse what comes until `resume`; returns what had not been taken."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()
            return self._batcher.clear()

    def resume(self) -> None:
        """Take what comes again."""
        with self._changed:
            self._paused = False

    def close(self) -> list[T]:
        """Refuse what comes; returns what had not been taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._batcher.clear()
