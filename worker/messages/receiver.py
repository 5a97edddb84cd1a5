"""The thread of one queue: it alone receives from the queue and settles what came from it.

One thread for both, since the SDK's receiver serves one: settling waits for the broker's word by
reading the same socket that messages come in on.
"""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from worker.errors import BrokerAway, LockLost, QueueMissing, Settlement
from worker.messages.lease import Lease, Leases
from worker.messages.servicebus import Delivery, QueueLink
from worker.remote.backoff import Backoff
from worker.remote.reach import Reach

_log = logging.getLogger(__name__)

# While jobs are in hand one of them may finish at any moment and wants to be settled. The reply
# has been sent by then, so that these milliseconds keep nobody waiting.
_BUSY_WAIT_SECONDS = 0.02
# While nothing is in hand: bounds how long a stop takes, and keeps the receive calls so close
# together that the credit they leave behind never brings a message that nobody sees.
_IDLE_WAIT_SECONDS = 0.25
_FULL_WAIT_SECONDS = 0.5
# What belongs together comes within so much.
_MOMENT_SECONDS = 0.002
_SETTLED_TOGETHER = 64
# A queue that is missing is made by an operator, if at all.
_MISSING_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How one message is to be settled. Without a lease it is settled on the lock it came with.

    With a delay it is settled that much later, or at once when this worker leaves.
    """

    delivery: Delivery
    lease: Lease | None
    how: Settlement
    reason: str = ""
    description: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Intake:
    """What the receiver asks, and whom it tells.

    `room`: how many messages may be taken now. `accept`: take charge of a message; it
    ends in a call of `Receiver.settle`. `settled`: a message is out of hand, in time or too late.
    """

    room: Callable[[], int]
    accept: Callable[[Delivery], None]
    settled: Callable[[Ending, bool], None]


class Receiver:
    """`turn` and `close` belong to one thread, the rest to any."""

    def __init__(
        self,
        link: QueueLink,
        leases: Leases,
        reach: Reach,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._leases = leases
        self._reach = reach
        self._clock = clock
        self._backoff = Backoff(first_seconds=0.1, limit_seconds=2.0)
        self._endings: deque[Ending] = deque()
        self._postponed: list[tuple[float, int, Ending]] = []
        self._numbers = itertools.count()
        self._held_count = 0
        self._stopping = threading.Event()
        # Whether the broker may push a message although nobody receives.
        self._has_credit = False
        self._was_full = False
        self._is_taking = False
        self._wake = threading.Event()
        self.is_dry = False
        self.turned_at = clock()

    @property
    def is_connected(self) -> bool:
        """Whether the queue answered when last used."""
        return self._reach.answers

    @property
    def may_take(self) -> bool:
        """Whether a message may still come though there is no room any more."""
        return self._is_taking or (self._has_credit and self._link.is_open)

    @property
    def is_finished(self) -> bool:
        """Whether it was stopped and has settled all that it received."""
        return self._stopping.is_set() and self._held_count == 0

    def settle(self, ending: Ending) -> None:
        """Settle soon, or after the ending's delay."""
        self._endings.append(ending)
        self._wake.set()

    def wake(self) -> None:
        """There may be room again."""
        self._wake.set()

    def stop(self) -> None:
        """Receive no more; what is held is still settled."""
        self._stopping.set()
        self._wake.set()

    def turn(self, intake: Intake) -> None:
        """One round: connect if need be, settle what is finished, receive if there is room."""
        self.turned_at = self._clock()
        try:
            self._connect()
            if self._endings and not intake.room():
                # Nothing could be received meanwhile, and a batch's jobs end within a moment.
                self._stopping.wait(_MOMENT_SECONDS)
            self._settle_all(intake)
            self._receive(intake)
        except BrokerAway as error:
            self.is_dry = False
            self._reach.lost(error)
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
            self._reach.found()
            self._backoff.reset()

    def _settle_all(self, intake: Intake) -> None:
        self._recall_postponed()
        while self._endings:
            ending = self._endings[0]
            if ending.delay_seconds and not self._stopping.is_set():
                self._postpone(ending)
                self._endings.popleft()
                continue
            many = self._completions()
            if len(many) > 1:
                all_in_time = self._link.complete([ending.delivery for ending in many])
            else:
                many, all_in_time = [ending], [self._settle(ending)]
            for ending, in_time in zip(many, all_in_time, strict=True):
                self._endings.popleft()
                self._held_count -= 1
                intake.settled(ending, in_time)

    def _completions(self) -> list[Ending]:
        """The endings at the front that can be settled at one go: completions with their locks."""
        found: list[Ending] = []
        for number in range(min(len(self._endings), _SETTLED_TOGETHER)):
            ending = self._endings[number]
            if ending.how is not Settlement.COMPLETE or not self._release(ending):
                break
            found.append(ending)
        return found

    def _release(self, ending: Ending) -> bool:
        """Whether the message may be settled: its lock, where it has a lease, is not lost."""
        return ending.lease is None or self._leases.release(ending.lease)

    def _postpone(self, ending: Ending) -> None:
        due_at = self._clock() + ending.delay_seconds
        heapq.heappush(self._postponed, (due_at, next(self._numbers), ending))

    def _recall_postponed(self) -> None:
        now = float("inf") if self._stopping.is_set() else self._clock()
        while self._postponed and self._postponed[0][0] <= now:
            ending = heapq.heappop(self._postponed)[2]
            self._endings.append(replace(ending, delay_seconds=0.0))

    def _settle(self, ending: Ending) -> bool:
        if not self._release(ending):
            return False
        try:
            self._link.settle(ending.delivery, ending.how, ending.reason, ending.description)
        except LockLost as error:
            # The job is answered all the same: whoever gets it again finds that out by asking.
            _log.info("%s came too late to %s: %s", ending.delivery.message_id, ending.how, error)
            return False
        return True

    def _receive(self, intake: Intake) -> None:
        # Before the room is asked for: who closes it meanwhile waits for what this brings.
        self._is_taking = True
        try:
            rest_seconds = self._take(intake)
        finally:
            self._is_taking = False
        if rest_seconds is not None:
            self._pause(rest_seconds)

    def _take(self, intake: Intake) -> float | None:
        """Receive if there is room; returns for how long to rest where there is none."""
        if self._stopping.is_set():
            self._take_back_credit()
            return _FULL_WAIT_SECONDS if self._held_count else 0.0
        if not intake.room():
            self._was_full = True
            self._take_back_credit()
            return _FULL_WAIT_SECONDS
        if self._was_full:
            # A batch leaves its room job by job, within a moment.
            self._stopping.wait(_MOMENT_SECONDS)
            self._receive_many(intake, max(1, intake.room()))
        else:
            self._receive_one(intake)
        return None

    def _receive_one(self, intake: Intake) -> None:
        is_busy = self._held_count > len(self._postponed)
        self._has_credit = True
        delivery = self._link.receive(_BUSY_WAIT_SECONDS if is_busy else _IDLE_WAIT_SECONDS)
        self.is_dry = delivery is None
        if delivery is not None:
            # The one credit went with it.
            self._has_credit = False
            self._accept(intake, delivery)

    def _receive_many(self, intake: Intake, count: int) -> None:
        """Fill the room that a batch has left. Where the queue has less, it ran dry meanwhile."""
        self._has_credit = True
        deliveries = self._link.receive_many(count, _BUSY_WAIT_SECONDS)
        self.is_dry = not deliveries
        self._was_full = len(deliveries) == count
        self._has_credit = not self._was_full
        for delivery in deliveries:
            self._accept(intake, delivery)

    def _accept(self, intake: Intake, delivery: Delivery) -> None:
        self._held_count += 1
        intake.accept(delivery)

    def _take_back_credit(self) -> None:
        if self._has_credit:
            self._link.stop_receiving()
            self._has_credit = False

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()
