"""Leases: each keeps the lock of one message until the job ends, its deadline or the lock is lost.

One thread renews them all, over connections of its own, so that neither inference nor a slow
reply can ever hold a renewal back.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from worker.errors import BrokerAway, LockLost
from worker.messages.servicebus import Delivery

_log = logging.getLogger(__name__)

# A third of the lock leaves time for two more tries, if none takes all of it: a connection that
# went silent is closed in time to renew over the next, and keeps the locks of others waiting no
# longer than that.
_RENEW_AT_SHARE = 1 / 3
_TRY_SHARE = 1 / 2
_LONGEST_TRY_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LONGEST_SLEEP_SECONDS = 1.0


class Renew(Protocol):
    """Renews one message's lock."""

    def __call__(self, delivery: Delivery, timeout_seconds: float) -> float:
        """Seconds that the lock now lasts. LockLost where it is gone, BrokerAway to try again."""
        ...


@dataclass(slots=True, eq=False)
class Lease:
    """The hold on one message. Times are seconds of the leases' clock."""

    renew: Renew
    expires_at: float
    ends_at: float
    due_at: float
    _delivery: Delivery | None
    _clock: Callable[[], float] = time.monotonic
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def is_lost(self) -> bool:
        """Whether another worker may have the message: drop the work, settle nothing."""
        # After this process was stopped for a while, other threads may be here before the one that
        # renews.
        return self._lost.is_set() or self._clock() >= self.expires_at

    def wait(self, seconds: float) -> bool:
        """Sleep, but not past the loss of the lock; returns whether it is still held."""
        self._lost.wait(seconds)
        return not self.is_lost


class Leases:
    """All leases of a worker process. Any thread may `hold` and `release`; one calls `turn`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, Lease]] = []
        self._numbers = itertools.count()
        self._wakes_at = 0.0

    def hold(self, delivery: Delivery, renew: Renew, lock_seconds: float, ends_at: float) -> Lease:
        """Keep the lock, of which `lock_seconds` are left, until `release` or `ends_at`."""
        now = self._clock()
        due_at = now + lock_seconds * _RENEW_AT_SHARE
        lease = Lease(renew, now + lock_seconds, ends_at, due_at, delivery, self._clock)
        with self._changed:
            self._push(lease)
            if due_at < self._wakes_at:
                self._changed.notify()
        return lease

    def release(self, lease: Lease) -> bool:
        """Stop renewing, as the message is about to be settled; False where the lock is lost."""
        # The entry in the queue goes when it is due; the message it held goes now.
        lease._delivery = None
        return not lease.is_lost

    def turn(self) -> float:
        """Renew what is due; returns the seconds until more is."""
        while (lease := self._next_due()) is not None:
            self._attend(lease)
            if lease._delivery is not None:
                with self._changed:
                    self._push(lease)
        with self._changed:
            if not self._queue:
                return _LONGEST_SLEEP_SECONDS
            return max(0.0, min(self._queue[0][0] - self._clock(), _LONGEST_SLEEP_SECONDS))

    def run(self, stop: threading.Event, turned: Callable[[], None]) -> None:
        """The thread: turn until told to stop; `turned` hears of each turn."""
        while not stop.is_set():
            sleep_seconds = self.turn()
            turned()
            with self._changed:
                self._wakes_at = self._clock() + sleep_seconds
                self._changed.wait(sleep_seconds)
                self._wakes_at = 0.0

    def _push(self, lease: Lease) -> None:
        heapq.heappush(self._queue, (lease.due_at, next(self._numbers), lease))

    def _next_due(self) -> Lease | None:
        with self._changed:
            while self._queue and self._queue[0][0] <= self._clock():
                lease = heapq.heappop(self._queue)[2]
                if lease._delivery is not None:
                    return lease
            return None

    def _attend(self, lease: Lease) -> None:
        now = self._clock()
        if now >= lease.expires_at:
            self._lose(lease, "it expired before it could be renewed")
        elif now >= lease.ends_at:
            # Past the deadline nobody waits: let the lock run out.
            lease.due_at = lease.expires_at
        else:
            self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        delivery = lease._delivery
        if delivery is None:
            return
        left_seconds = lease.expires_at - self._clock()
        try_seconds = min(max(0.1, left_seconds * _TRY_SHARE), _LONGEST_TRY_SECONDS)
        try:
            lock_seconds = lease.renew(delivery, try_seconds)
        except LockLost as error:
            if lease._delivery is not None:
                self._lose(lease, error)
        except BrokerAway as error:
            _log.debug("could not renew the lock of %s: %s", delivery.message_id, error)
            self._try_again(lease)
        except Exception:  # noqa: BLE001  the process's edge: this thread keeps everybody's locks
            _log.exception("renewing the lock of %s failed, trying on", delivery.message_id)
            self._try_again(lease)
        else:
            now = self._clock()
            lease.expires_at = now + lock_seconds
            lease.due_at = now + lock_seconds * _RENEW_AT_SHARE

    def _try_again(self, lease: Lease) -> None:
        lease.due_at = min(self._clock() + _RETRY_SECONDS, lease.expires_at)

    def _lose(self, lease: Lease, reason: object) -> None:
        delivery, lease._delivery = lease._delivery, None
        lease._lost.set()
        if delivery is not None:
            _log.warning("lost the lock of job %s: %s", delivery.message_id, reason)
