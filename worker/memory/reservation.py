"""One model's reservation of device memory.

Two threads use the reservation. The device thread loads and runs the model. The sharing thread
decides when the model may be loaded and when it must be unloaded.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.memory.admission import (
    Records,
    ReservationRecord,
    ReservationStage,
    ReservationState,
    WorkState,
)
from worker.memory.lock_files import LockFileFolder
from worker.memory.queued_work import QueuedWork, QueueView

_log = logging.getLogger(__name__)

# A model counts as idle after this time without work, because its next message may arrive soon.
_IDLE_SECONDS = 0.5


class ReservationFile:
    """The lock file of one model's reservation, in the folder with those of all models."""

    def __init__(self, folder: Path, record: ReservationRecord) -> None:
        self._files = LockFileFolder(folder)
        self._record = record
        with self._files.locked():
            self._file = self._files.add(asdict(record))
        self.name = self._file.name

    @contextlib.contextmanager
    def locked(self) -> Iterator[dict[str, ReservationRecord]]:
        """Yield the records of all models by `name`, and exclude all other threads and processes.

        The block may replace the record of this model, which is then written into the lock file.
        """
        with self._files.locked():
            records = {}
            for name, document in self._files.read().items():
                # Workers of other versions may write other fields.
                with contextlib.suppress(TypeError):
                    records[name] = ReservationRecord(**document)
            records[self.name] = self._record
            yield records
            if records[self.name] != self._record:
                self._record = records[self.name]
                self._file.write(asdict(self._record))


class UnlimitedReservation:
    """A reservation without a limit. The model never waits for memory."""

    def __init__(self, total_bytes: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._total_bytes = total_bytes
        self._clock = clock
        self._not_before = float("-inf")
        self.is_in = False
        self.reserved_bytes = 0

    def wait_for_memory(self, stopping: threading.Event) -> int | None:
        """Wait for the delay after a failed load. Return the device's memory in bytes, or None."""
        is_stopping = stopping.wait(max(0.0, self._not_before - self._clock()))
        return None if is_stopping else self._total_bytes

    def record_load(self, needed_bytes: int, load_seconds: float) -> None:
        """Record that the model has been loaded."""
        self.is_in = True

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """Return the device's memory in bytes."""
        return self._total_bytes

    def record_failure(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """Record that the load failed, and delay the next one."""
        self._not_before = self._clock() + retry_seconds

    def record_unload(self) -> None:
        """Record that the model has been unloaded."""
        self.is_in = False


@dataclass(frozen=True, slots=True)
class ModelWorkload:
    """Functions and queues that show whether a model has jobs to run.

    `busy_count` returns how many received messages are still being processed, and `may_receive`
    whether the broker may still send one for an earlier request. `request_unload` makes the thread
    that runs the model unload it, when it has no jobs.
    """

    name: str
    busy_count: Callable[[], int]
    may_receive: Callable[[], bool]
    request_unload: Callable[[], None]
    queues: Sequence[QueueView]


class SharedReservation:
    """A reservation on a device that other models and processes share.

    The thread that calls `DeviceSharing.run` also calls `update`. Any thread may call `touch`. The
    thread that runs the model calls the other methods.
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
        """Whether the model is loaded and its jobs may be received."""
        return self._state.stage is ReservationStage.IN

    @property
    def is_settled(self) -> bool:
        """Whether the model is loaded and no other model waits for memory."""
        return self.is_in and not self._others_wait

    def touch(self) -> None:
        """Record that a message for this model was received, so the model is not idle."""
        self._is_touched = True
        self._active_at = self._clock()

    def update(self) -> None:
        """Reserve memory if the model may be loaded; mark it as leaving if others need it.

        As soon as a leaving model has no jobs, make the thread that runs the model unload it.
        """
        before = self._state.stage
        # The queues are peeked before the lock files are locked, because peeking may be slow.
        pending_since = self._pending_since() if before is ReservationStage.OUT else None
        now = self._clock()
        if self._workload.busy_count():
            self._active_at = now
        work = WorkState(pending_since, is_idle=now - self._active_at >= _IDLE_SECONDS)
        # `wait_for_memory` must not see the stage ENTERING before `reserved_bytes` is set.
        with self._changed, self._file.locked() as records:
            # If the device thread has changed the stage in the meantime, the next update continues.
            if self._state.stage is before:
                records[self._file.name] = self._state.advance(now, self._file.name, records, work)
            self._note(records)
            self._changed.notify_all()
        if self._state.stage is ReservationStage.LEAVING:
            if before is ReservationStage.IN:
                _log.info(
                    "%s: the model will be unloaded, because another model needs the memory",
                    self._workload.name,
                )
            # `may_receive` must be read first: a received message is counted as busy before
            # `may_receive` becomes False.
            if not self._workload.may_receive() and not self._workload.busy_count():
                self._workload.request_unload()

    def wait_for_memory(self, stopping: threading.Event) -> int | None:
        """Wait, and return how many bytes are reserved; None if `stopping` was set first."""
        with self._changed:
            while not stopping.is_set():
                if self._state.stage is ReservationStage.ENTERING:
                    return self.reserved_bytes
                self._changed.wait(0.5)
        return None

    def record_load(self, needed_bytes: int, load_seconds: float) -> None:
        """Record that the model has been loaded, and reduce the reservation to `needed_bytes`."""
        now = self._clock()
        self._is_touched = False
        self._active_at = now
        with self._file.locked() as records:
            held_bytes = min(needed_bytes, self.reserved_bytes)
            records[self._file.name] = self._state.enter(now, held_bytes, load_seconds)
            self._note(records)
        if self._waited_since is not None:
            waited_seconds = now - self._waited_since
            _log.info("%s: the model waited %.2f s for memory", self._workload.name, waited_seconds)
            self._waited_since = None

    def resize(self, needed_bytes: int, least_bytes: int) -> int:
        """Change the reservation to `needed_bytes` or to all free memory. Return its size.

        If less than `least_bytes` are free, which the model needs to run at all, it is unloaded.
        """
        with self._file.locked() as records:
            own = self._state.resize(self._file.name, records, needed_bytes)
            if own.reserved_bytes < least_bytes and self.is_in:
                own = self._state.begin_to_leave(own, self._clock())
            records[self._file.name] = own
            self._note(records)
        return self.reserved_bytes

    def record_failure(self, retry_seconds: float, needed_bytes: int | None) -> None:
        """Release the memory of a failed load. Reserve `needed_bytes` for the next, if not None."""
        with self._file.locked() as records:
            records[self._file.name] = self._state.fail(self._clock(), retry_seconds, needed_bytes)
            self._note(records)

    def record_unload(self) -> None:
        """Record that the model has been unloaded, and release its reserved memory."""
        self._was_in_vain = not self._is_touched
        with self._file.locked() as records:
            records[self._file.name] = self._state.leave()
            self._note(records)

    def _pending_since(self) -> float | None:
        if self._was_in_vain:
            self._was_in_vain = False
            self._queued_work.skip_current()
        return self._queued_work.since()

    def _note(self, records: Records) -> None:
        own_record = records[self._file.name]
        self.reserved_bytes = own_record.reserved_bytes
        if own_record.waiting_since is not None:
            # A message may be older than this worker, which did not wait for memory all that time.
            before = self._clock() if self._waited_since is None else self._waited_since
            self._waited_since = max(own_record.waiting_since, before)
        elif self._state.stage is ReservationStage.OUT:
            self._waited_since = None
        self._others_wait = any(each.waiting_since is not None for each in records.values())


MemoryReservation = UnlimitedReservation | SharedReservation
"""A reservation, whose methods only the thread that runs the model calls."""
