"""One model's reservation of device memory, as its device thread and the sharing thread use it."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from worker.memory.gpu_sharing.admission import (
    ReservationRecord,
    ReservationStage,
    ReservationState,
    WorkState,
)
from worker.memory.gpu_sharing.lock_files import LockFile, LockFileFolder
from worker.memory.gpu_sharing.queued_work import QueuedWork, QueueView

_log = logging.getLogger(__name__)

# A model counts as idle after this time without work: the next message may take a moment.
_IDLE_SECONDS = 0.5


class ReservationRecords:
    """The records of all models while the lock files are locked. `mine` may be replaced."""

    def __init__(self, file: LockFile, records: dict[str, ReservationRecord]) -> None:
        self._file = file
        self._records = records
        self.name = file.name

    @property
    def mine(self) -> ReservationRecord:
        """Return this model's record."""
        return self._records[self.name]

    @mine.setter
    def mine(self, record: ReservationRecord) -> None:
        if record != self._records[self.name]:
            self._records[self.name] = record
            self._file.write(asdict(record))

    @property
    def all(self) -> dict[str, ReservationRecord]:
        """Return the records of all models, by name."""
        return self._records


class ReservationFile:
    """One model's record, in a lock file beside those of all other models on the device."""

    def __init__(self, folder: Path, record: ReservationRecord) -> None:
        self._files = LockFileFolder(folder)
        self._record = record
        with self._files.locked():
            self._file = self._files.add(asdict(record))

    @contextlib.contextmanager
    def locked(self) -> Iterator[ReservationRecords]:
        """Read all records and change this one, while no other process does."""
        with self._files.locked():
            records = {}
            for name, document in self._files.read().items():
                with contextlib.suppress(ValueError):
                    records[name] = ReservationRecord.read(document)
            records[self._file.name] = self._record
            current = ReservationRecords(self._file, records)
            yield current
            self._record = current.mine

    def close(self) -> None:
        """Remove the record, and with it the reservation."""
        with self._files.locked():
            self._file.remove()
        self._files.close()


class MemoryReservation(Protocol):
    """A model's reservation, as its device thread uses it."""

    @property
    def reserved_bytes(self) -> int:
        """Return how much is reserved for the model now."""
        ...

    @property
    def is_in(self) -> bool:
        """Return whether the model may take jobs."""
        ...

    def wait(self, stopping: threading.Event) -> int | None:
        """Wait for memory; return how much is reserved, or None if `stopping` was set."""
        ...

    def enter(self, needed_bytes: int, load_seconds: float) -> None:
        """Note that the model is loaded, and how much of the memory it needs."""
        ...

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """Change the reservation after a measurement; return how much is reserved now.

        If that is less than `least_bytes`, the model is to be unloaded.
        """
        ...

    def fail(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """Note that the model could not be loaded.

        Args:
            retry_seconds: How long to wait before the next try.
            needed_bytes: What to reserve next time if memory was short; None if it was not.
        """
        ...

    def leave(self) -> None:
        """Note that the model is unloaded."""
        ...


class UnlimitedReservation:
    """A reservation on a device without admission: memory is always free."""

    def __init__(self, total_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total_bytes = total_bytes
        self._clock = clock
        self._not_before = float("-inf")
        self.is_in = False
        self.reserved_bytes = 0

    def wait(self, stopping: threading.Event) -> int | None:
        """Wait for the next try; return the device's memory, or None if `stopping` was set."""
        is_stopping = stopping.wait(max(0.0, self._not_before - self._clock()))
        return None if is_stopping else self._total_bytes

    def enter(self, needed_bytes: int, load_seconds: float) -> None:
        """Note that the model is loaded."""
        self.is_in = True

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """Return the device's memory."""
        return self._total_bytes

    def fail(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """Wait before the next try."""
        self._not_before = self._clock() + retry_seconds

    def leave(self) -> None:
        """Note that the model is unloaded."""
        self.is_in = False


@dataclass(frozen=True, slots=True)
class ModelWorkload:
    """A model's work, as the sharing needs to know it.

    Attributes:
        name: The model's name.
        busy_count: Returns how many messages need work.
        may_receive: Returns whether a message may still arrive although the model is to leave.
        vacate: Called when the model is to leave and has no work: lets its device thread unload it.
        queues: Views of its queues.
    """

    name: str
    busy_count: Callable[[], int]
    may_receive: Callable[[], bool]
    vacate: Callable[[], None]
    queues: Sequence[QueueView]


class SharedReservation:
    """A reservation beside those of other models and processes.

    `turn` is called by the sharing thread, `touch` by any thread, the rest by the device thread.
    """

    def __init__(
        self,
        workload: ModelWorkload,
        file: ReservationFile,
        state: ReservationState,
        queued_work: QueuedWork,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workload = workload
        self._file = file
        self._state = state
        self._queued_work = queued_work
        self._clock = clock
        self._changed = threading.Condition()
        self._active_at = clock()
        self._waited_since: float | None = None
        self._was_in_vain = False
        self._is_touched = False
        self._others_wait = False
        self.reserved_bytes = 0

    @property
    def is_in(self) -> bool:
        """Return whether the model may take jobs."""
        return self._state.stage is ReservationStage.IN

    @property
    def is_settled(self) -> bool:
        """Return whether the model is loaded and no model waits, so that turns are not urgent."""
        return self.is_in and not self._others_wait

    def touch(self) -> None:
        """Note that a message arrived."""
        self._is_touched = True
        self._active_at = self._clock()

    def turn(self) -> None:
        """Take the next step if one is due."""
        before = self._state.stage
        # The queues are looked at first, because that may take a while.
        pending_since = self._pending_since() if before is ReservationStage.OUT else None
        now = self._clock()
        if self._workload.busy_count():
            self._active_at = now
        work = WorkState(pending_since, is_idle=now - self._active_at >= _IDLE_SECONDS)
        with self._file.locked() as records:
            # Only if the device thread has not changed the stage meanwhile.
            if self._state.stage is before:
                records.mine = self._state.advance(now, records.name, records.all, work)
            self._note(records)
        if self._state.stage is ReservationStage.LEAVING:
            if before is ReservationStage.IN:
                _log.info("%s: makes room for another model", self._workload.name)
            # In this order: a message is in flight before `may_receive` turns false.
            if not self._workload.may_receive() and not self._workload.busy_count():
                self._workload.vacate()
        elif self._state.stage is not before:
            with self._changed:
                self._changed.notify_all()

    def wait(self, stopping: threading.Event) -> int | None:
        """Wait for memory; return how much is reserved, or None if `stopping` was set."""
        with self._changed:
            while not stopping.is_set():
                if self._state.stage is ReservationStage.ENTERING:
                    return self.reserved_bytes
                self._changed.wait(0.5)
        return None

    def enter(self, needed_bytes: int, load_seconds: float) -> None:
        """Note that the model is loaded, and return the memory that it does not need."""
        now = self._clock()
        self._is_touched = False
        self._active_at = now
        with self._file.locked() as records:
            held_bytes = min(needed_bytes, records.mine.reserved_bytes)
            records.mine = self._state.enter(now, held_bytes, load_seconds)
            self._note(records)
        if self._waited_since is not None:
            waited_seconds = now - self._waited_since
            _log.info("%s: waited %.2f s for memory", self._workload.name, waited_seconds)
            self._waited_since = None

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """Change the reservation after a measurement, within the free memory."""
        with self._file.locked() as records:
            records.mine = self._state.resize(records.name, records.all, needed_bytes)
            if records.mine.reserved_bytes < least_bytes and self.is_in:
                records.mine = self._state.begin_to_leave(records.mine, self._clock())
            self._note(records)
        return self.reserved_bytes

    def fail(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """Note that the model could not be loaded, and free its reservation."""
        with self._file.locked() as records:
            records.mine = self._state.fail(self._clock(), retry_seconds, needed_bytes)
            self._note(records)

    def leave(self) -> None:
        """Note that the model is unloaded, and free its reservation."""
        self._was_in_vain = not self._is_touched
        with self._file.locked() as records:
            records.mine = self._state.leave()
            self._note(records)

    def _pending_since(self) -> float | None:
        if self._was_in_vain:
            self._was_in_vain = False
            self._queued_work.skip_current()
        return self._queued_work.since()

    def _note(self, records: ReservationRecords) -> None:
        mine = records.mine
        self.reserved_bytes = mine.reserved_bytes
        if mine.waiting_since is not None:
            # A message may be older than this worker: that time was not spent waiting for memory.
            before = self._clock() if self._waited_since is None else self._waited_since
            self._waited_since = max(mine.waiting_since, before)
        elif self._state.stage is ReservationStage.OUT:
            self._waited_since = None
        self._others_wait = any(each.waiting_since is not None for each in records.all.values())
