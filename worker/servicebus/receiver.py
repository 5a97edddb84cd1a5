"""Receive the messages of one queue, and settle them.

One thread does both, because the SDK's receiver is not thread-safe: to settle, it reads the same
socket that messages arrive on.
"""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

from worker.errors import BrokerAway, LockLost, QueueMissing, Settlement
from worker.net.retries import RetryDelays
from worker.servicebus.link import LockedMessage, QueueLink, utc_now
from worker.servicebus.locks import LockRenewer, MessageLock
from worker.settings import AzureEndpoint
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

# While jobs are in flight, one of them may finish at any moment and is then to be settled. Its
# reply has been sent by then, so that no caller waits longer.
_BUSY_WAIT_SECONDS = 0.02
# While nothing is in flight. Bounds how long a stop takes, and how long a message can wait that the
# broker pushes on the credit of an earlier call.
_IDLE_WAIT_SECONDS = 0.25
_FULL_WAIT_SECONDS = 0.5
# Jobs of one batch end within this time, and can be settled together.
_GATHER_SECONDS = 0.002
_MAX_SETTLED_TOGETHER = 64
# A missing queue has to be created by an operator.
_MISSING_WAIT_SECONDS = 30.0
# Messages of low priority are not urgent: look at their socket less often.
_LOW_SOCKET_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """How to settle one message.

    Attributes:
        delivery: The message.
        lock: Its renewed lock; None to use the lock that it was delivered with.
        settlement: How to end the message.
        reason, description: For the dead-letter queue.
        delay_seconds: How long to wait first; the wait ends when this worker shuts down.
    """

    delivery: LockedMessage
    lock: MessageLock | None
    settlement: Settlement
    reason: str = ""
    description: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Settled:
    """A message that was settled, or whose lock was lost before (`in_time` is False)."""

    request: SettleRequest
    in_time: bool


class Receiver:
    """The receiver of one queue. `turn` and `close` belong to one thread, the rest to any."""

    def __init__(
        self,
        link: QueueLink,
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
        # Whether the broker may push a message between two receive calls.
        self._has_credit = False
        self._was_full = False
        self._is_receiving = False
        self._wake = threading.Event()
        self.is_empty = False
        self.turned_at = clock()

    @property
    def is_connected(self) -> bool:
        """Return whether the queue answered when it was last used."""
        return self._status.is_up

    @property
    def may_receive(self) -> bool:
        """Return whether a message may still arrive although there is no capacity left."""
        return self._is_receiving or (self._has_credit and self._link.is_open)

    @property
    def is_finished(self) -> bool:
        """Return whether it was stopped and has settled all that it received."""
        return self._stopping.is_set() and self._held_count == 0

    def settle(self, request: SettleRequest) -> None:
        """Settle a message soon, or after the request's delay."""
        self._requests.append(request)
        self._wake.set()

    def wake(self) -> None:
        """End a pause: there may be capacity again."""
        self._wake.set()

    def stop(self) -> None:
        """Receive nothing more; messages that are held are still settled."""
        self._stopping.set()
        self._wake.set()

    def turn(self, free_count: Callable[[], int]) -> Iterator[LockedMessage | Settled]:
        """Run one round: connect if necessary, settle what is due, receive if there is capacity.

        Args:
            free_count: Returns how many messages may be received now.

        Yields:
            Each message that was settled, and each that was received. The caller must take charge
            of a received message before it takes the next one.
        """
        self.turned_at = self._clock()
        try:
            self._connect()
            if self._requests and not free_count():
                # Nothing could be received meanwhile, and the jobs of a batch end together.
                self._stopping.wait(_GATHER_SECONDS)
            yield from self._settle_all()
            yield from self._receive(free_count)
        except BrokerAway as error:
            self.is_empty = False
            self._status.mark_down(error)
            if isinstance(error, QueueMissing):
                self._stopping.wait(_MISSING_WAIT_SECONDS)
            else:
                self._pause(self._backoff.next())

    def close(self) -> None:
        """Close the link."""
        self._link.close()

    def _connect(self) -> None:
        if not self._link.is_open:
            self._link.open()
            self._has_credit = False
            self._status.mark_up()
            self._backoff.reset()

    def _settle_all(self) -> Iterator[Settled]:
        self._resume_postponed()
        while self._requests:
            request = self._requests[0]
            if request.delay_seconds and not self._stopping.is_set():
                self._postpone(request)
                self._requests.popleft()
                continue
            together = self._completions()
            if len(together) > 1:
                all_in_time = self._link.complete([each.delivery for each in together])
            else:
                together, all_in_time = [request], [self._settle_one(request)]
            for each, in_time in zip(together, all_in_time, strict=True):
                self._requests.popleft()
                self._held_count -= 1
                yield Settled(each, in_time)

    def _completions(self) -> list[SettleRequest]:
        """Return the first requests that can be settled together: completions with their locks."""
        found: list[SettleRequest] = []
        for number in range(min(len(self._requests), _MAX_SETTLED_TOGETHER)):
            request = self._requests[number]
            if request.settlement is not Settlement.COMPLETE or not self._release_lock(request):
                break
            found.append(request)
        return found

    def _release_lock(self, request: SettleRequest) -> bool:
        """Stop renewing the message's lock; return False if the lock is lost."""
        return request.lock is None or self._locks.release(request.lock)

    def _postpone(self, request: SettleRequest) -> None:
        due_at = self._clock() + request.delay_seconds
        heapq.heappush(self._postponed, (due_at, next(self._numbers), request))

    def _resume_postponed(self) -> None:
        now = float("inf") if self._stopping.is_set() else self._clock()
        while self._postponed and self._postponed[0][0] <= now:
            request = heapq.heappop(self._postponed)[2]
            self._requests.append(replace(request, delay_seconds=0.0))

    def _settle_one(self, request: SettleRequest) -> bool:
        if not self._release_lock(request):
            return False
        delivery, how = request.delivery, request.settlement
        try:
            self._link.settle(delivery, how, request.reason, request.description)
        except LockLost as error:
            # The job was answered all the same: the next delivery finds that out by asking.
            _log.info("%s came too late to %s: %s", delivery.message_id, how, error)
            return False
        return True

    def _receive(self, free_count: Callable[[], int]) -> Iterator[LockedMessage]:
        # Set before the capacity is read: to unload a model, the sharing thread first closes the
        # capacity, and then waits for the messages of a call that is under way.
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
        """Receive if there is capacity; return how long to pause if there is not."""
        if self._stopping.is_set():
            self._take_back_credit()
            return _FULL_WAIT_SECONDS if self._held_count else 0.0
        if not free_count():
            self._was_full = True
            self._take_back_credit()
            return _FULL_WAIT_SECONDS
        if self._was_full:
            # The jobs of a batch leave one by one, within a short time.
            self._stopping.wait(_GATHER_SECONDS)
            yield from self._receive_many(max(1, free_count()))
        else:
            yield from self._receive_one()
        return None

    def _receive_one(self) -> Iterator[LockedMessage]:
        is_busy = self._held_count > len(self._postponed)
        self._has_credit = True
        delivery = self._link.receive(_BUSY_WAIT_SECONDS if is_busy else _IDLE_WAIT_SECONDS)
        self.is_empty = delivery is None
        if delivery is not None:
            # The credit was for one message.
            self._has_credit = False
            self._held_count += 1
            yield delivery

    def _receive_many(self, count: int) -> Iterator[LockedMessage]:
        """Fill the capacity that a batch has left; if fewer messages come, the queue is empty."""
        self._has_credit = True
        deliveries = self._link.receive_many(count, _BUSY_WAIT_SECONDS)
        self.is_empty = not deliveries
        self._was_full = len(deliveries) == count
        self._has_credit = not self._was_full
        for delivery in deliveries:
            self._held_count += 1
            yield delivery

    def _take_back_credit(self) -> None:
        if self._has_credit:
            self._link.stop_receiving()
            self._has_credit = False

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()


class ModelQueue:
    """One queue of a model, with two connections: for its receiver, and to renew locks."""

    def __init__(
        self,
        name: str,
        endpoint: AzureEndpoint,
        locks: LockRenewer,
        lock_seconds: float,
        *,
        is_low: bool = False,
    ) -> None:
        """Prepare both connections; nothing is connected yet.

        Args:
            name: The queue's name.
            endpoint: The Service Bus namespace.
            locks: Renews the locks of all messages.
            lock_seconds: The queue's lock duration.
            is_low: Whether the queue is the one for low priority.
        """
        self.name = name
        self.is_low = is_low
        self._lock_seconds = lock_seconds
        link = (
            QueueLink(endpoint, name, _LOW_SOCKET_SECONDS) if is_low else QueueLink(endpoint, name)
        )
        self.receiver = Receiver(link, locks, ServiceStatus(f"Service Bus queue {name}"))
        self._renewing = QueueLink(endpoint, name)

    def renew(self, delivery: LockedMessage, timeout_seconds: float) -> float:
        """Renew a message's lock; return the seconds that it now lasts.

        Raises:
            LockLost: The lock is lost.
            BrokerAway: Try again.
        """
        expires_at = self._renewing.renew(delivery, timeout_seconds)
        # The time is by the broker's clock, which may be ahead.
        return min((expires_at - utc_now()).total_seconds(), self._lock_seconds)
