"""A model's place on the device, taken and given up: who loads the model waits its turn here."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.memory.ledger import Claims, Ledger
from worker.memory.pending import Pending, Window
from worker.memory.seat import Facts, Seat, Stage

_log = logging.getLogger(__name__)

# So long a model that is sent nothing is still not idle: the first message takes a moment.
_IDLE_SECONDS = 0.5


class Place(Protocol):
    """What a model's device thread asks of its place."""

    @property
    def reserved_bytes(self) -> int:
        """What is reserved for the model now."""
        ...

    @property
    def is_in(self) -> bool:
        """Whether the model may take jobs."""
        ...

    def wait(self, stopping: threading.Event) -> int | None:
        """Wait for memory; returns how much is reserved, or None where this worker is leaving."""
        ...

    def entered(self, needed_bytes: int, load_seconds: float) -> None:
        """The model is loaded, and so much of the memory is for it."""
        ...

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """It turned out to need more or less; returns what it has now.

        Where that is not even the least, the place is to be left.
        """
        ...

    def failed(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """It could not be loaded; where for want of memory, it needs so much next time."""
        ...

    def left(self) -> None:
        """It is unloaded."""
        ...


class OpenPlace:
    """A place on a device that nobody counts: always free. See Place."""

    def __init__(self, total_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total_bytes = total_bytes
        self._clock = clock
        self._not_before = float("-inf")
        self.is_in = False
        self.reserved_bytes = 0

    def wait(self, stopping: threading.Event) -> int | None:
        """See Place."""
        is_stopping = stopping.wait(max(0.0, self._not_before - self._clock()))
        return None if is_stopping else self._total_bytes

    def entered(self, needed_bytes: int, load_seconds: float) -> None:
        """See Place."""
        self.is_in = True

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """See Place."""
        return self._total_bytes

    def failed(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """See Place."""
        self._not_before = self._clock() + retry_seconds

    def left(self) -> None:
        """See Place."""
        self.is_in = False


@dataclass(frozen=True, slots=True)
class Occupant:
    """A model with its work, as its place sees it.

    `busy_count` is how much it has in hand, and `may_take` whether more may come though it is to
    leave. `vacate` is called when it is to leave and neither is so. `windows` show its queues.
    """

    name: str
    busy_count: Callable[[], int]
    may_take: Callable[[], bool]
    vacate: Callable[[], None]
    windows: Sequence[Window]


class SharedPlace:
    """A place that is reserved in the ledger. See Place.

    `turn` belongs to one thread for all places, `touch` to any, the rest to the device's thread.
    """

    def __init__(
        self,
        occupant: Occupant,
        ledger: Ledger,
        seat: Seat,
        pending: Pending,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._occupant = occupant
        self._ledger = ledger
        self._seat = seat
        self._pending = pending
        self._clock = clock
        self._changed = threading.Condition()
        self._active_at = clock()
        self._waited_since: float | None = None
        self._was_in_vain = False
        self._touched = False
        self._is_crowded = False
        self.reserved_bytes = 0

    @property
    def is_in(self) -> bool:
        """See Place."""
        return self._seat.stage is Stage.IN

    @property
    def is_settled(self) -> bool:
        """Whether it is in and nobody is known to wait, so that there is no hurry to turn again."""
        return self.is_in and not self._is_crowded

    def touch(self) -> None:
        """A message came."""
        self._touched = True
        self._active_at = self._clock()

    def turn(self) -> None:
        """Take the next step, if one is due."""
        before = self._seat.stage
        # This may take a while, so that what is true now is asked only then.
        pending_since = self._pending_since() if before is Stage.OUT else None
        now = self._clock()
        if self._occupant.busy_count():
            self._active_at = now
        facts = Facts(pending_since, is_idle=now - self._active_at >= _IDLE_SECONDS)
        with self._ledger.turn() as claims:
            # The device's thread may have been quicker.
            if self._seat.stage is before:
                claims.mine = self._seat.turn(now, claims.name, claims.all, facts)
            self._note(claims)
        if self._seat.stage is Stage.LEAVING:
            if before is Stage.IN:
                _log.info("%s: makes room for another model", self._occupant.name)
            # In this order: what is taken is in hand before it is no longer being taken.
            if not self._occupant.may_take() and not self._occupant.busy_count():
                self._occupant.vacate()
        elif self._seat.stage is not before:
            with self._changed:
                self._changed.notify_all()

    def wait(self, stopping: threading.Event) -> int | None:
        """See Place."""
        with self._changed:
            while not stopping.is_set():
                if self._seat.stage is Stage.ENTERING:
                    return self.reserved_bytes
                self._changed.wait(0.5)
        return None

    def entered(self, needed_bytes: int, load_seconds: float) -> None:
        """See Place."""
        now = self._clock()
        self._touched = False
        self._active_at = now
        with self._ledger.turn() as claims:
            held_bytes = min(needed_bytes, claims.mine.reserved_bytes)
            claims.mine = self._seat.entered(now, held_bytes, load_seconds)
            self._note(claims)
        if self._waited_since is not None:
            waited_seconds = now - self._waited_since
            _log.info("%s: waited %.2f s for memory", self._occupant.name, waited_seconds)
            self._waited_since = None

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """See Place. It grows by what is free at most."""
        with self._ledger.turn() as claims:
            claims.mine = self._seat.resized(claims.name, claims.all, needed_bytes)
            if claims.mine.reserved_bytes < least_bytes and self.is_in:
                claims.mine = self._seat.gone_over(claims.mine, self._clock())
            self._note(claims)
        return self.reserved_bytes

    def failed(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """See Place."""
        with self._ledger.turn() as claims:
            claims.mine = self._seat.failed(self._clock(), retry_seconds, needed_bytes)
            self._note(claims)

    def left(self) -> None:
        """See Place."""
        self._was_in_vain = not self._touched
        with self._ledger.turn() as claims:
            claims.mine = self._seat.left()
            self._note(claims)

    def _pending_since(self) -> float | None:
        if self._was_in_vain:
            self._was_in_vain = False
            self._pending.was_in_vain()
        return self._pending.since()

    def _note(self, claims: Claims) -> None:
        mine = claims.mine
        self.reserved_bytes = mine.reserved_bytes
        if mine.waiting_since is not None:
            # A message may be older than this worker, which is not its memory's fault.
            before = self._clock() if self._waited_since is None else self._waited_since
            self._waited_since = max(mine.waiting_since, before)
        elif self._seat.stage is Stage.OUT:
            self._waited_since = None
        self._is_crowded = any(each.waiting_since is not None for each in claims.all.values())
