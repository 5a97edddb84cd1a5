"""Replies that are at hand until their messages are settled, so that no job runs twice here.

Where a reply or a settlement fails, the broker delivers the message again, mostly soon. If that is
to this process, it need not run the job once more.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from worker.messages.servicebus import Delivery

_LIMIT_BYTES = 64 * 1024 * 1024
_LIMIT_SECONDS = 600.0
# What the entry itself costs, so that countless small ones are bounded, too.
_ENTRY_BYTES = 500


@dataclass(frozen=True, slots=True)
class Kept:
    """One job's reply as it is written, its outcome's code, and whether it has been delivered."""

    body: bytes = field(repr=False)
    code: str
    kept_at: float
    is_delivered: bool = False


class KeptReplies:
    """By message, the oldest first to go. Any thread.

    A message is known by its number in its queue: whoever sends the same job id again may mean
    another input.
    """

    def __init__(
        self,
        limit_bytes: int = _LIMIT_BYTES,
        limit_seconds: float = _LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], Kept] = OrderedDict()
        self._size_bytes = 0

    def keep(self, delivery: Delivery, body: bytes, code: str) -> None:
        """Have the reply at hand, as long as there is space and time for it."""
        with self._lock:
            self._drop(_key(delivery))
            kept = Kept(body, code, self._clock())
            self._kept[_key(delivery)] = kept
            self._size_bytes += _size(kept)
            self._shrink()

    def delivered(self, delivery: Delivery) -> None:
        """The reply has been taken: there is only the message to settle."""
        with self._lock:
            if (kept := self._kept.get(_key(delivery))) is not None:
                self._size_bytes -= len(kept.body)
                self._kept[_key(delivery)] = replace(kept, body=b"", is_delivered=True)

    def find(self, delivery: Delivery) -> Kept | None:
        """The reply to this message, where it has been run here before."""
        with self._lock:
            self._shrink()
            return self._kept.get(_key(delivery))

    def forget(self, delivery: Delivery) -> None:
        """The message is settled."""
        with self._lock:
            self._drop(_key(delivery))

    def _shrink(self) -> None:
        too_old = self._clock() - self._limit_seconds
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if self._size_bytes <= self._limit_bytes and oldest.kept_at > too_old:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, int]) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._size_bytes -= _size(kept)


def _key(delivery: Delivery) -> tuple[str, int]:
    return delivery.queue, delivery.sequence_number


def _size(kept: Kept) -> int:
    return len(kept.body) + _ENTRY_BYTES
