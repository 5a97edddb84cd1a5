"""Lock the message sessions of queues.

A message session is a group of messages with the same session id (`group-id` in AMQP). Message
sessions are not the sessions of an AMQP connection. A receiver that has accepted a message session
has an exclusive lock on the session. The messages that the receiver gets are locked until the
receiver's lock on the session ends.

The locks are only in memory: after a restart of the broker, no session is locked.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from emulator.servicebus.broker.message_table import TimerHeap


class _LockState(Enum):
    HELD = "held"
    RELEASED = "released"
    EXPIRED = "expired"


def _ignore_loss() -> None:
    """Do nothing. Locks use this callback if nothing has to happen when they are lost."""


@dataclass(eq=False, slots=True)
class MessageSessionLock:
    """A receiver's exclusive lock on one message session of a queue."""

    id: int
    queue: int
    """The queue's internal number."""
    session_id: str
    until: datetime
    """When the lock expires, unless the receiver renews it."""
    on_lost: Callable[[], None] = _ignore_loss
    """The broker calls this function after the lock has expired. It must not raise errors."""
    _state: _LockState = _LockState.HELD

    @property
    def is_held(self) -> bool:
        """Whether the lock has neither expired nor been released."""
        return self._state is _LockState.HELD

    @property
    def is_expired(self) -> bool:
        """Whether the lock has ended because it expired."""
        return self._state is _LockState.EXPIRED

    def is_valid(self, now: datetime) -> bool:
        """Return whether the receiver may use the session at the time `now`."""
        return self.is_held and self.until > now

    def end(self, *, expired: bool) -> None:
        """End the lock. `expired` is False if the receiver has released the session."""
        self._state = _LockState.EXPIRED if expired else _LockState.RELEASED


class MessageSessionLocks:
    """The locks on the message sessions of all queues, and their expiry times.

    A lock that has ended is removed only after its messages are unlocked in the database. Until
    then, no other receiver can lock the session.
    """

    def __init__(self) -> None:
        self._locks: dict[int, MessageSessionLock] = {}
        self._ended: dict[int, MessageSessionLock] = {}
        self._timers = TimerHeap()
        self._next_id = 1

    def add(self, queue: int, session_id: str, until: datetime) -> MessageSessionLock:
        """Return a new lock on a session of a queue. `queue` is the queue's internal number."""
        lock = MessageSessionLock(self._next_id, queue, session_id, until)
        self._next_id += 1
        self._locks[lock.id] = lock
        self._timers.set(lock.id, until)
        return lock

    def renew(self, lock: MessageSessionLock, until: datetime) -> None:
        """Set a new expiry time of a lock. The caller must ensure that the lock is valid."""
        lock.until = until
        self._timers.set(lock.id, until)

    def release(self, lock: MessageSessionLock) -> None:
        """End a lock because its receiver has released the session."""
        if lock.is_held and self._locks.get(lock.id) is lock:
            self._end(lock, expired=False)

    def release_all(self) -> None:
        """End all locks because the broker is closed."""
        for lock in list(self._locks.values()):
            self.release(lock)

    def end_expired(self, now: datetime) -> Collection[MessageSessionLock]:
        """End the locks that have expired; return all ended ones, not removed yet."""
        while (id_ := self._timers.take_due(now)) is not None:
            self._end(self._locks[id_], expired=True)
        return list(self._ended.values())

    def ended(self) -> Collection[MessageSessionLock]:
        """Return the locks that have ended, but have not been removed."""
        return list(self._ended.values())

    def remove(self, lock: MessageSessionLock) -> None:
        """Remove a lock that has ended. The caller must first unlock the session's messages."""
        del self._locks[lock.id], self._ended[lock.id]

    def drop_queue(self, queue: int) -> None:
        """Remove all locks of a queue that is deleted."""
        for lock in [each for each in self._locks.values() if each.queue == queue]:
            if lock.is_held:
                self._end(lock, expired=False)
            self.remove(lock)

    def next_due_at(self) -> datetime | None:
        """Return the earliest expiry time of all held locks, or None if no lock is held."""
        return self._timers.next_due_at()

    def _end(self, lock: MessageSessionLock, *, expired: bool) -> None:
        lock.end(expired=expired)
        self._timers.set(lock.id, None)
        self._ended[lock.id] = lock
