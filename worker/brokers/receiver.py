"""Receive and settle the messages of one queue, and renew the locks of all received messages.

One thread both receives and settles, because a connection to a broker is not thread-safe. Another
thread renews all locks over separate connections, so that nothing delays a renewal.
"""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace

from worker.brokers.port import LockedMessage, MessageBroker, MessageLink
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, LockLost, QueueMissing, Settlement
from worker.processes.history import DeliveryHistory
from worker.processes.lock_journal import LockJournals
from worker.retries import RetryDelays
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

# How long one receive call waits while jobs are in flight. Any of them may finish during the call,
# and its message is settled after the call. Its reply was sent before, so that no caller waits
# longer. Each call sends the broker a request, which costs both sides processor time.
_BUSY_WAIT_SECONDS = 0.05
# The same for a call that may receive several messages. It returns the first only with the others.
_SEVERAL_WAIT_SECONDS = 0.02
# How long one receive call waits while no job is in flight. A stop takes at most this long. A
# message that the broker sends for the credit of an earlier call also waits at most this long.
_IDLE_WAIT_SECONDS = 0.25
_FULL_WAIT_SECONDS = 0.5
# The jobs of one batch end within this time, so that their messages can be settled together.
_GATHER_SECONDS = 0.002
_MAX_SETTLED_TOGETHER = 64
# Brokers limit the size of a dead letter's headers.
_DESCRIPTION_CHARACTERS = 1024
# The pause if the queue does not exist: an operator must create it first.
_MISSING_WAIT_SECONDS = 30.0
# A lock is renewed after a third of its duration, which leaves time for two more tries. Each try
# has a time limit: a connection that does not answer is closed early enough to renew the lock over
# a new connection, and it delays the other locks only for this time.
_RENEW_AT_SHARE = 1 / 3
_TRY_SHARE = 1 / 2
_LONGEST_TRY_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LONGEST_SLEEP_SECONDS = 1.0


Renew = Callable[[LockedMessage, float], float]
"""Renews a lock within a time limit, and returns in how many seconds it then expires.

Raises LockLost, or BrokerUnavailable if the caller may try again.
"""


@dataclass(slots=True, eq=False)
class MessageLock:
    """The lock of one message, which is renewed until `LockRenewer.end_renewal` or `ends_at`.

    Times are seconds of the LockRenewer's clock. The lock must be renewed at `due_at`.
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
        """Return whether the lock is lost. Then another worker may have the message."""
        # After a pause of the process, this may be called before the renewing thread has run.
        return self._lost.is_set() or self._clock() >= self.expires_at

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds` or until the lock is lost. Return False if the lock is lost."""
        self._lost.wait(seconds)
        return not self.is_lost


class LockRenewer:
    """Renews all message locks of this process. One thread calls `run`, any thread the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, MessageLock]] = []
        self._numbers = itertools.count()
        self._wakes_at = 0.0
        self.iterated_at = time.monotonic()

    def start_renewal(
        self, delivery: LockedMessage, renew: Renew, lock_seconds: float, ends_at: float
    ) -> MessageLock:
        """Renew a lock that expires in `lock_seconds`, until `end_renewal` or until `ends_at`."""
        now = self._clock()
        due_at = now + lock_seconds * _RENEW_AT_SHARE
        lock = MessageLock(renew, now + lock_seconds, ends_at, due_at, delivery, self._clock)
        with self._changed:
            self._push(lock)
            if due_at < self._wakes_at:
                self._changed.notify()
        return lock

    def end_renewal(self, lock: MessageLock) -> bool:
        """Stop renewing a lock, before its message is settled. Return False if it is lost."""
        # The entry in the heap is removed when it is due. The message itself is freed now.
        lock._delivery = None
        return not lock.is_lost

    def renew_due(self) -> float:
        """Renew the due locks. Return in how many seconds this must be called again."""
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
        """Renew locks until `stop` is set."""
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
            while self._queue:
                due_at, _, lock = self._queue[0]
                # Locks that have ended are dropped early, so that no thread wakes for them.
                if lock._delivery is not None and due_at > self._clock():
                    return None
                heapq.heappop(self._queue)
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


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """A request to settle one message, whose lock is None if it was never renewed.

    `reason` and `description` are stored with a dead-lettered message, and `history`, unless None,
    with an abandoned one. A worker that shuts down does not wait for `delay_seconds`.
    """

    delivery: LockedMessage
    lock: MessageLock | None
    settlement: Settlement
    reason: str = ""
    description: str = ""
    delay_seconds: float = 0.0
    history: DeliveryHistory | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A settled request. `in_time` is False if the message's lock was lost before."""

    request: SettleRequest
    in_time: bool


class Receiver:
    """Receives and settles the messages of one queue.

    Only one thread may call `settle_and_receive` and `disconnect`. Any thread may call the others.
    """

    def __init__(
        self,
        link: MessageLink,
        locks: LockRenewer,
        status: ServiceStatus,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._locks = locks
        self._status = status
        self._clock = clock
        self._backoff = RetryDelays(first_seconds=0.1, limit_seconds=2.0)
        self._requests: deque[SettleRequest] = deque()
        self._postponed: list[tuple[float, int, SettleRequest]] = []
        self._numbers = itertools.count()
        self._held_count = 0
        self._stopping = threading.Event()
        self._was_full = False
        self._is_receiving = False
        self._wake = threading.Event()
        self.is_empty = False
        self.iterated_at = clock()

    @property
    def is_connected(self) -> bool:
        """Return whether the last call to the queue succeeded."""
        return self._status.is_up

    @property
    def may_receive(self) -> bool:
        """Return whether the broker may still send a message for an earlier receive request."""
        return self._is_receiving or (self._link.is_connected and self._link.has_credit)

    @property
    def is_finished(self) -> bool:
        """Return whether the receiver was stopped and has settled all messages that it received."""
        return self._stopping.is_set() and self._held_count == 0

    def request_settlement(self, request: SettleRequest) -> None:
        """Queue a request to settle a message. The receiver's thread settles the message later."""
        self._requests.append(request)
        self._wake.set()

    def wake(self) -> None:
        """End the receiver's wait, so that the receiver checks its capacity again."""
        self._wake.set()

    def stop_receiving(self) -> None:
        """Stop receiving messages. Messages that were already received are still settled."""
        self._stopping.set()
        self._wake.set()

    def settle_and_receive(
        self, free_count: Callable[[], int]
    ) -> Iterator[LockedMessage | Settled]:
        """Connect if necessary, carry out the requested settlements, and receive new messages.

        The caller must count each received message before it continues the iteration, so that
        `free_count` then returns 1 less.
        """
        self.iterated_at = self._clock()
        try:
            self._connect()
            self._link.serve()
            if self._requests and not free_count():
                # No message could be received now, and the other jobs of the batch end very soon.
                self._stopping.wait(_GATHER_SECONDS)
            yield from self._settle_all()
            yield from self._receive(free_count)
        except BrokerUnavailable as error:
            self.is_empty = False
            self._status.mark_down(error)
            if isinstance(error, QueueMissing):
                self._stopping.wait(_MISSING_WAIT_SECONDS)
            else:
                self._pause(self._backoff.next())

    def disconnect(self) -> None:
        """Close the connection to the queue."""
        self._link.disconnect()

    def _connect(self) -> None:
        if not self._link.is_connected:
            self._link.connect()
            self._status.mark_up()
            self._backoff.reset()

    def _settle_all(self) -> Iterator[Settled]:
        self._resume_postponed()
        while self._requests:
            request = self._requests[0]
            if request.delay_seconds and not self._stopping.is_set():
                due_at = self._clock() + request.delay_seconds
                heapq.heappush(self._postponed, (due_at, next(self._numbers), request))
                self._requests.popleft()
                continue
            together = self._completions()
            if len(together) > 1:
                all_in_time = self._link.complete_messages([each.delivery for each in together])
            else:
                together, all_in_time = [request], [self._settle_one(request)]
            for each, in_time in zip(together, all_in_time, strict=True):
                self._requests.popleft()
                self._held_count -= 1
                yield Settled(each, in_time)

    def _completions(self) -> list[SettleRequest]:
        """Return the next requests that one call can complete, and stop renewing their locks."""
        found: list[SettleRequest] = []
        for number in range(min(len(self._requests), _MAX_SETTLED_TOGETHER)):
            request = self._requests[number]
            if request.settlement is not Settlement.COMPLETE or not self._release_lock(request):
                break
            found.append(request)
        return found

    def _release_lock(self, request: SettleRequest) -> bool:
        return request.lock is None or self._locks.end_renewal(request.lock)

    def _resume_postponed(self) -> None:
        now = float("inf") if self._stopping.is_set() else self._clock()
        while self._postponed and self._postponed[0][0] <= now:
            request = heapq.heappop(self._postponed)[2]
            self._requests.append(replace(request, delay_seconds=0.0))

    def _settle_one(self, request: SettleRequest) -> bool:
        if not self._release_lock(request):
            self._link.forget_token(request.delivery)
            return False
        delivery, how = request.delivery, request.settlement
        try:
            description = request.description[:_DESCRIPTION_CHARACTERS]
            self._link.settle_message(delivery, how, request.reason, description, request.history)
        except LockLost as error:
            # The reply may have been sent. When the message is delivered again, the worker asks the
            # gateway whether the job has ended.
            _log.info(
                "message %s: the settlement %s came too late, because the lock is lost: %s",
                delivery.message_id,
                how,
                error,
            )
            return False
        return True

    def _receive(self, free_count: Callable[[], int]) -> Iterator[LockedMessage]:
        # Set before the capacity is read: to unload a model, the sharing thread first sets the
        # capacity to 0, and then waits until no receive call is running.
        self._is_receiving = True
        try:
            rest_seconds = yield from self._receive_free(free_count)
        finally:
            self._is_receiving = False
        if rest_seconds is not None:
            self._pause(rest_seconds)

    def _receive_free(
        self, free_count: Callable[[], int]
    ) -> Generator[LockedMessage, None, float | None]:
        """Yield received messages; without capacity, return how many seconds to wait."""
        if self._stopping.is_set():
            self._take_back_credit()
            return _FULL_WAIT_SECONDS if self._held_count else 0.0
        if not (room := free_count()):
            self._was_full = True
            self._take_back_credit()
            return _FULL_WAIT_SECONDS
        if self._was_full:
            # The jobs of a batch end one after another within a short time.
            self._stopping.wait(_GATHER_SECONDS)
            room = max(1, free_count())
            yield from self._receive_up_to(room, _SEVERAL_WAIT_SECONDS, room)
            self._was_full = not self._link.has_credit
        else:
            is_busy = self._held_count > len(self._postponed)
            wait_seconds = _BUSY_WAIT_SECONDS if is_busy else _IDLE_WAIT_SECONDS
            yield from self._receive_up_to(1, wait_seconds, room)
        return None

    def _receive_up_to(self, count: int, wait_seconds: float, room: int) -> Iterator[LockedMessage]:
        deliveries = self._link.receive_messages(count, wait_seconds, room)
        self.is_empty = not deliveries
        for delivery in deliveries:
            self._held_count += 1
            yield delivery

    def _take_back_credit(self) -> None:
        if self._link.has_credit:
            self._link.stop_receiving()

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()


class ModelQueue:
    """One queue of a model, with one connection to receive messages and another to renew locks."""

    def __init__(  # noqa: PLR0913 - what the connections of a queue need
        self,
        name: str,
        broker: MessageBroker,
        locks: LockRenewer,
        lock_seconds: float,
        *,
        is_low: bool = False,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting. `lock_seconds` is the queue's lock duration."""
        self.name = name
        self.is_low = is_low
        self._lock_seconds = lock_seconds
        link = broker.open_link(name, lock_seconds, journals)
        self.receiver = Receiver(link, locks, ServiceStatus(f"{broker.name} queue {name}"))
        self._renewing = broker.open_link(name, lock_seconds)

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> float:
        """Renew a lock as `MessageLink` does, and return in how many seconds it expires."""
        expires_at = self._renewing.renew_lock(delivery, timeout_seconds)
        # The broker's clock sets this time, and that clock may be ahead of this machine's clock.
        return min((expires_at - utc_now()).total_seconds(), self._lock_seconds)
