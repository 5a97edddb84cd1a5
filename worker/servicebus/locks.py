"""Renew each message lock until its job ends, the job's deadline passes, or the lock is lost.

One thread renews all locks over separate connections, so that neither inference nor a slow reply
can delay a renewal.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from worker.errors import BrokerUnavailable, LockLost
from worker.servicebus.link import LockedMessage

_log = logging.getLogger(__name__)

# A lock is renewed after a third of its duration, which leaves time for two more tries. Each try
# has a time limit: a connection that does not answer is closed early enough to renew the lock over
# a new connection, and it delays the other locks only for this time.
_RENEW_AT_SHARE = 1 / 3
_TRY_SHARE = 1 / 2
_LONGEST_TRY_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LONGEST_SLEEP_SECONDS = 1.0


class Renew(Protocol):
    """A function that renews the lock of one message."""

    def __call__(self, delivery: LockedMessage, timeout_seconds: float) -> float:
        """Renew a message's lock, and return in how many seconds the lock then expires.

        Raises:
            LockLost: The lock is lost.
            BrokerUnavailable: The broker cannot be reached now. The caller may try again.
        """
        ...


@dataclass(slots=True, eq=False)
class MessageLock:
    """The lock of one message, which is renewed until `LockRenewer.release` is called.

    Times are seconds of the clock of the LockRenewer.

    Attributes:
        renew: Renews the lock.
        expires_at: When the lock expires if it is not renewed.
        ends_at: The job's deadline, after which the lock is not renewed.
        due_at: When the lock must be renewed next.
    """

    renew: Renew
    expires_at: float
    ends_at: float
    due_at: float
    _delivery: LockedMessage | None
    _clock: Callable[[], float] = time.monotonic
    _lost: threading.Event = field(default_factory=threading.Event)

    @property
    def is_lost(self) -> bool:
        """Return whether the lock is lost.

        If the lock is lost, another worker may have the message. Then the caller must stop
        processing the message and must not settle it.
        """
        # After a pause of the process, this may be called before the renewing thread has run.
        return self._lost.is_set() or self._clock() >= self.expires_at

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds` or until the lock is lost. Return False if the lock is lost."""
        self._lost.wait(seconds)
        return not self.is_lost


class LockRenewer:
    """Renews all message locks of this process.

    Any thread may call `hold` and `release`. A separate thread calls `run`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, MessageLock]] = []
        self._numbers = itertools.count()
        self._wakes_at = 0.0
        self.iterated_at = time.monotonic()

    def hold(
        self, delivery: LockedMessage, renew: Renew, lock_seconds: float, ends_at: float
    ) -> MessageLock:
        """Start to renew a message's lock, and return the lock.

        The lock is renewed until the caller passes it to `release`, or until `ends_at`.

        Args:
            delivery: The locked message.
            renew: Renews the lock of the message.
            lock_seconds: In how many seconds the lock expires if it is not renewed.
            ends_at: The job's deadline, as a time in seconds on this object's clock.
        """
        now = self._clock()
        due_at = now + lock_seconds * _RENEW_AT_SHARE
        lock = MessageLock(renew, now + lock_seconds, ends_at, due_at, delivery, self._clock)
        with self._changed:
            self._push(lock)
            if due_at < self._wakes_at:
                self._changed.notify()
        return lock

    def release(self, lock: MessageLock) -> bool:
        """Stop renewing the lock. Return False if the lock is lost.

        The caller must call this method before it settles the message.
        """
        # The entry in the heap is removed when it is due. The message itself is freed now.
        lock._delivery = None
        return not lock.is_lost

    def renew_due(self) -> float:
        """Renew each lock whose renewal time has come.

        Returns:
            In how many seconds the caller must call this method again.
        """
        while (lock := self._next_due()) is not None:
            self._attend(lock)
            if lock._delivery is not None:
                with self._changed:
                    self._push(lock)
        with self._changed:
            if not self._queue:
                return _LONGEST_SLEEP_SECONDS
            return max(0.0, min(self._queue[0][0] - self._clock(), _LONGEST_SLEEP_SECONDS))

    def run(self, stop: threading.Event) -> None:
        """Renew locks until `stop` is set. A separate thread must call this method."""
        while not stop.is_set():
            sleep_seconds = self.renew_due()
            self.iterated_at = time.monotonic()
            with self._changed:
                self._wakes_at = self._clock() + sleep_seconds
                self._changed.wait(sleep_seconds)
                self._wakes_at = 0.0

    def _push(self, lock: MessageLock) -> None:
        heapq.heappush(self._queue, (lock.due_at, next(self._numbers), lock))

    def _next_due(self) -> MessageLock | None:
        with self._changed:
            while self._queue and self._queue[0][0] <= self._clock():
                lock = heapq.heappop(self._queue)[2]
                if lock._delivery is not None:
                    return lock
            return None

    def _attend(self, lock: MessageLock) -> None:
        now = self._clock()
        if now >= lock.expires_at:
            self._lose(lock, "the lock expired before it could be renewed")
        elif now >= lock.ends_at:
            # After the job's deadline, the caller no longer waits. So the lock may expire.
            lock.due_at = lock.expires_at
        else:
            self._renew(lock)

    def _renew(self, lock: MessageLock) -> None:
        delivery = lock._delivery
        if delivery is None:
            return
        left_seconds = lock.expires_at - self._clock()
        try_seconds = min(max(0.1, left_seconds * _TRY_SHARE), _LONGEST_TRY_SECONDS)
        try:
            lock_seconds = lock.renew(delivery, try_seconds)
        except LockLost as error:
            if lock._delivery is not None:
                self._lose(lock, error)
        except BrokerUnavailable as error:
            _log.debug(
                "the worker could not renew the lock of job %s and tries again: %s",
                delivery.message_id,
                error,
            )
            self._try_again(lock)
        except Exception:  # noqa: BLE001  this thread renews all locks
            _log.exception(
                "renewing the lock of job %s failed; the worker tries again", delivery.message_id
            )
            self._try_again(lock)
        else:
            now = self._clock()
            lock.expires_at = now + lock_seconds
            lock.due_at = now + lock_seconds * _RENEW_AT_SHARE

    def _try_again(self, lock: MessageLock) -> None:
        lock.due_at = min(self._clock() + _RETRY_SECONDS, lock.expires_at)

    def _lose(self, lock: MessageLock, reason: object) -> None:
        delivery, lock._delivery = lock._delivery, None
        lock._lost.set()
        if delivery is not None:
            _log.warning("the worker lost the lock of job %s: %s", delivery.message_id, reason)
