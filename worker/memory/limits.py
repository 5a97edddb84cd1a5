"""Limit the memory of batches, and control which models use the device at the same time."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from worker.memory.device import Batch, MemoryHolder
from worker.memory.profile import MemoryProfile
from worker.memory.simulated_device import Device

_log = logging.getLogger(__name__)

# The cost of a batch is at most this many times the cost of the largest measured batch.
_GROWTH = 2.0
_MAX_EXCLUSIVE_WAIT_SECONDS = 10.0


class _Use(threading.local):
    """How the current thread uses the device. `enter` is None if it does not use the device."""

    enter: Callable[[], None] | None = None
    is_alone = False
    has_released = False


class DeviceLock:
    """A lock for shared or exclusive use of the device by the models of this process.

    A thread that needs exclusive use waits until no other thread uses the device. Threads that
    arrive later wait until the exclusive use ends.
    """

    def __init__(self, max_wait_seconds: float = _MAX_EXCLUSIVE_WAIT_SECONDS) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._changed = threading.Condition()
        self._inside_count = 0
        self._waiting_count = 0
        self._is_exclusive = False
        self._local = _Use()

    @property
    def has_released(self) -> bool:
        """Whether this thread released the device during its last or current use."""
        return self._local.has_released

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let other threads use the device in the `with` block, and then use it again as before.

        Does nothing if this thread does not use the device.
        """
        enter = self._local.enter
        if enter is None:
            yield
            return
        self._local.has_released = True
        self._leave()
        try:
            yield
        finally:
            enter()

    def shared(self) -> contextlib.AbstractContextManager[None]:
        """Use the device in the `with` block. Other threads may use it at the same time."""
        return self._using(self._enter_shared)

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Use the device in the `with` block while no other thread of this process uses it.

        The wait for other threads has a time limit, because their jobs may last minutes. After it,
        the block runs all the same.
        """
        return self._using(self._enter_exclusive)

    @contextlib.contextmanager
    def _using(self, enter: Callable[[], None]) -> Iterator[None]:
        self._local.has_released = False
        enter()
        try:
            yield
        finally:
            self._leave()

    def _enter_shared(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_exclusive or self._waiting_count))
            self._inside_count += 1
        self._local.enter, self._local.is_alone = self._enter_shared, False

    def _enter_exclusive(self) -> None:
        with self._changed:
            self._waiting_count += 1
            is_free = self._changed.wait_for(lambda: not self._inside_count, self._max_wait_seconds)
            self._waiting_count -= 1
            self._is_exclusive = self._is_exclusive or is_free
            self._inside_count += 1
            self._changed.notify_all()
        self._local.enter, self._local.is_alone = self._enter_exclusive, is_free

    def _leave(self) -> None:
        with self._changed:
            self._inside_count -= 1
            self._is_exclusive = self._is_exclusive and not self._local.is_alone
            self._changed.notify_all()
        self._local.enter = None


class BatchLimit:
    """Limits the size of one model's batches, without measuring or reserving memory.

    The limit is reduced after each batch that did not fit into memory. The cost of a batch is the
    total size of its items, in the model's own unit. Only the thread that runs the model may use
    this object.
    """

    def __init__(
        self, model: str, device_lock: DeviceLock, record_split: Callable[[], None] = lambda: None
    ) -> None:
        """Allow any batch until one does not fit, which calls `record_split`."""
        self._model = model
        self._device_lock = device_lock
        self._record_split = record_split
        self._learned_cost = inf

    @property
    def max_cost(self) -> float:
        """The highest cost of the next batch. An item with a higher cost runs alone."""
        return self._learned_cost

    @property
    def measured_cost(self) -> float:
        """The highest cost of a batch that fits into memory and need not be measured."""
        return self._learned_cost

    @contextlib.contextmanager
    def admit_batch(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Wait until the device may be used, also exclusively, and run the block as one batch."""
        with self._device_lock.exclusive() if is_exclusive else self._device_lock.shared():
            yield

    def note_exceeded(self, cost: float, next_cost: float) -> None:
        """Record that a batch ran out of memory, and allow at most `next_cost` if it is lower."""
        self._record_split()
        if next_cost < min(cost, self._learned_cost):
            self._learned_cost = next_cost
            _log.warning(
                "%s: a batch of size %g ran out of memory; later batches have a size of at most %g",
                *(self._model, cost, next_cost),
            )


@dataclass(slots=True)
class DeviceModel:
    """A loaded model on a device, with the model's measured and reserved memory."""

    device: Device
    holder: MemoryHolder
    profile: MemoryProfile
    reserved_bytes: int


class MeasuredBatchLimit(BatchLimit):
    """Limits the size of one model's batches, so that each batch fits into the reserved memory.

    The memory of a batch is measured if the batch is larger than all earlier batches.
    """

    def __init__(
        self,
        model: str,
        device_lock: DeviceLock,
        device_model: DeviceModel,
        save_measurement: Callable[[DeviceModel], None],
        record_split: Callable[[], None] = lambda: None,
    ) -> None:
        """Store the arguments. `save_measurement` is called after each new measurement."""
        super().__init__(model, device_lock, record_split)
        self._device_model = device_model
        self._save_measurement = save_measurement

    @property
    def max_cost(self) -> float:
        """The highest cost of the next batch, at most twice the largest measured one."""
        peaks = self._device_model.profile.peaks
        untried = peaks[-1][0] * _GROWTH if peaks else 0.0
        return min(self._learned_cost, self.fitting_cost, untried)

    @property
    def measured_cost(self) -> float:
        """The highest cost that fits into memory and was measured; 0 without a measurement."""
        peaks = self._device_model.profile.peaks
        return min(self._learned_cost, self.fitting_cost, peaks[-1][0] if peaks else 0.0)

    @property
    def fitting_cost(self) -> float:
        """The highest cost of a batch that should fit into the reserved memory."""
        return self._device_model.profile.largest_cost(self._device_model.reserved_bytes)

    def is_measured(self, cost: float) -> bool:
        """Return whether a batch of this cost, or of a higher one, was measured."""
        return self._device_model.profile.is_measured(cost)

    @contextlib.contextmanager
    def admit_batch(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Run the block as one batch, alone and measured if no batch of its cost was."""
        profile = self._device_model.profile
        known_bytes = profile.peak_bytes(cost) if profile.is_measured(cost) else None
        # A measurement would also include all other work on the device, so it needs exclusive use.
        is_exclusive = is_exclusive or known_bytes is None
        batch = Batch(cost, known_bytes)
        with super().admit_batch(cost, is_exclusive=is_exclusive), self._on_device(batch):
            yield

    @contextlib.contextmanager
    def try_batch(self, cost: float) -> Iterator[None]:
        """Run a batch of example items, and measure it. It fails beyond the reserved memory."""
        free_bytes = self._device_model.reserved_bytes - self._device_model.profile.resident_bytes
        batch = Batch(cost, None, free_bytes)
        with super().admit_batch(cost, is_exclusive=True), self._on_device(batch):
            yield

    @contextlib.contextmanager
    def _on_device(self, batch: Batch) -> Iterator[None]:
        device_model = self._device_model
        with device_model.device.running(device_model.holder, batch):
            yield
        # Other models may have used the device while the batch waited for their jobs.
        if batch.measured_bytes is not None and not self._device_lock.has_released:
            device_model.profile = device_model.profile.with_peak(batch.cost, batch.measured_bytes)
            self._save_measurement(device_model)

    def note_exceeded(self, cost: float, next_cost: float) -> None:
        """Record that a batch ran out of memory, and release cached memory."""
        self._device_model.device.release_cached()
        super().note_exceeded(cost, next_cost)
