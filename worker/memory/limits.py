"""Limit the memory of batches, and control which models use the device at the same time."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from worker.memory.device import Batch, Device, MemoryHolder
from worker.memory.profile import MemoryProfile

_log = logging.getLogger(__name__)

# The cost of a batch is at most this many times the cost of the largest measured batch.
_GROWTH = 2.0
_MAX_EXCLUSIVE_WAIT_SECONDS = 10.0


class DeviceGate:
    """A lock for shared or exclusive use of the device by the models of this process.

    Before exclusive use, a thread waits until all other threads have ended their use. Threads that
    arrive later wait until the exclusive use ends.
    """

    def __init__(self, max_wait_seconds: float = _MAX_EXCLUSIVE_WAIT_SECONDS) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._changed = threading.Condition()
        self._inside_count = 0
        self._waiting_count = 0
        self._is_exclusive = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device during the `with` block. Other threads may use it at the same time."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_exclusive or self._waiting_count))
            self._inside_count += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside_count -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Use the device during the `with` block. No other thread of this process uses it then.

        Exception: if another thread does not end its use within a time limit, both threads use the
        device at the same time. The other thread's job may last minutes, and all later threads
        would have to wait for it, too.
        """
        with self._changed:
            self._waiting_count += 1
            is_free = self._changed.wait_for(lambda: not self._inside_count, self._max_wait_seconds)
            self._waiting_count -= 1
            self._is_exclusive = self._is_exclusive or is_free
            self._inside_count += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside_count -= 1
                self._is_exclusive = self._is_exclusive and not is_free
                self._changed.notify_all()


class BatchLimit:
    """Limits the batches of one loaded model. Only the model's device thread may use it.

    This class does not measure or reserve memory. It reduces the limit after each batch that did
    not fit into memory.
    """

    def __init__(
        self, model: str, gate: DeviceGate, record_split: Callable[[], None] = lambda: None
    ) -> None:
        """Create the object without a limit.

        Args:
            model: The model's name, for the logs.
            gate: Controls which models use the device at the same time.
            record_split: Called after every batch that did not fit into memory.
        """
        self._model = model
        self._gate = gate
        self._record_split = record_split
        self._learned_cost = inf

    @property
    def max_cost(self) -> float:
        """Return the largest cost that the next batch may have if it has several items."""
        return self._learned_cost

    @contextlib.contextmanager
    def admit(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Wait until the device may be used, and then run the `with` block as one batch.

        Args:
            cost: The sum of the costs of the batch's items, in the model's own unit.
            is_exclusive: Whether the batch must be the only use of the device by this process.
        """
        with self._gate.exclusive() if is_exclusive else self._gate.shared():
            yield

    def note_exceeded(self, cost: float, next_cost: float) -> None:
        """Record that a batch ran out of memory, and reduce the limit.

        Args:
            cost: The cost of the batch that ran out of memory.
            next_cost: The largest cost of later batches. It is ignored if it is not lower than the
                current limit.
        """
        self._record_split()
        if next_cost < min(cost, self._learned_cost):
            self._learned_cost = next_cost
            _log.warning(
                "%s: out of memory at a batch of cost %g; from now on the limit is %g",
                *(self._model, cost, next_cost),
            )


@dataclass(slots=True)
class DeviceModel:
    """A model on a device, with its measured memory and the bytes that are reserved for it."""

    device: Device
    holder: MemoryHolder
    profile: MemoryProfile
    reserved_bytes: int


class MeasuredBatchLimit(BatchLimit):
    """Limits the batches of a model on a device whose memory is reserved and measured."""

    def __init__(
        self,
        model: str,
        gate: DeviceGate,
        placed: DeviceModel,
        save_measurement: Callable[[DeviceModel], None],
        record_split: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the object with the limit that follows from the model's earlier measurements.

        Args:
            model: The model's name, for the logs.
            gate: Controls which models use the device at the same time.
            placed: The model on its device.
            save_measurement: Called after each new measurement.
            record_split: Called after every batch that did not fit into memory.
        """
        super().__init__(model, gate, record_split)
        self._placed = placed
        self._save_measurement = save_measurement

    @property
    def max_cost(self) -> float:
        """Return the largest cost of the next batch.

        A batch of this cost fits into the reserved memory, and costs at most twice as much as the
        largest measured batch.
        """
        peaks = self._placed.profile.peaks
        untried = peaks[-1][0] * _GROWTH if peaks else 0.0
        return min(self._learned_cost, self.fitting_cost, untried)

    @property
    def fitting_cost(self) -> float:
        """Return the largest cost of a batch that should fit into the reserved memory."""
        return self._placed.profile.largest_cost(self._placed.reserved_bytes)

    def is_measured(self, cost: float) -> bool:
        """Return whether the memory of a batch of at least this cost was measured."""
        return self._placed.profile.is_measured(cost)

    @contextlib.contextmanager
    def admit(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Wait until the device may be used, and then run the `with` block as one batch.

        If the batch costs more than every measured batch, measure its memory.
        """
        profile = self._placed.profile
        known_bytes = profile.peak_bytes(cost) if profile.is_measured(cost) else None
        # A measurement would also include all other work on the device, so it needs exclusive use.
        is_exclusive = is_exclusive or known_bytes is None
        batch = Batch(cost, known_bytes)
        with super().admit(cost, is_exclusive=is_exclusive), self._on_device(batch):
            yield

    @contextlib.contextmanager
    def trial(self, cost: float) -> Iterator[None]:
        """Run the body of the `with` block as a batch without jobs, and measure this batch.

        The batch fails if it needs more memory than is reserved.
        """
        free_bytes = self._placed.reserved_bytes - self._placed.profile.resident_bytes
        batch = Batch(cost, None, free_bytes)
        with super().admit(cost, is_exclusive=True), self._on_device(batch):
            yield

    @contextlib.contextmanager
    def _on_device(self, batch: Batch) -> Iterator[None]:
        placed = self._placed
        with placed.device.running(placed.holder, batch):
            yield
        if batch.measured_bytes is not None:
            placed.profile = placed.profile.with_peak(batch.cost, batch.measured_bytes)
            self._save_measurement(placed)

    def note_exceeded(self, cost: float, next_cost: float) -> None:
        """Record that a batch ran out of memory, and release the memory that is only cached."""
        self._placed.device.release_cached()
        super().note_exceeded(cost, next_cost)
