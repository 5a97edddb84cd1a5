"""Limit what batches may take of the device's memory, and the use of the device at one time."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from worker.memory.device import Batch, Device, MemoryHolder
from worker.memory.profile import MemoryProfile

_log = logging.getLogger(__name__)

# If sizes are unknown, a batch is at most this many times larger than the largest measured one.
_GROWTH = 2.0
_MAX_EXCLUSIVE_WAIT_SECONDS = 10.0


class DeviceGate:
    """Shared and exclusive use of the device by the models of this process.

    An exclusive user waits for those inside; later users wait for the exclusive one.
    """

    def __init__(self, max_wait_seconds: float = _MAX_EXCLUSIVE_WAIT_SECONDS) -> None:
        self._max_wait_seconds = max_wait_seconds
        self._changed = threading.Condition()
        self._inside_count = 0
        self._waiting_count = 0
        self._is_exclusive = False

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside others."""
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
        """Use the device while no other thread of this process does.

        If another user stays inside for too long, use the device beside it: a job may last minutes,
        and no other user gets in meanwhile.
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
    """The limit on the batches of one loaded model. Belongs to the model's device thread.

    Memory is not reserved or measured here, but the limit shrinks after a batch that did not fit.
    """

    def __init__(
        self, model: str, gate: DeviceGate, record_split: Callable[[], None] = lambda: None
    ) -> None:
        """Start without a limit.

        Args:
            model: The model's name, for the logs.
            gate: Admits batches to the device.
            record_split: Called for every batch that did not fit.
        """
        self._model = model
        self._gate = gate
        self._record_split = record_split
        self._learned_cost = inf

    @property
    def max_cost(self) -> float:
        """Return the largest cost of the next batch. A single item may cost more."""
        return self._learned_cost

    @contextlib.contextmanager
    def admit(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Surround a batch of this cost; raise what the device raises if its memory runs out."""
        with self._gate.exclusive() if is_exclusive else self._gate.shared():
            yield

    def note_exceeded(self, cost: float, next_cost: float) -> None:
        """Note that a batch ran out of memory.

        Args:
            cost: The batch's cost.
            next_cost: The limit for the next batches, if it is lower than the current one.
        """
        self._record_split()
        if next_cost < min(cost, self._learned_cost):
            self._learned_cost = next_cost
            _log.warning(
                "%s: out of memory at a batch of cost %g; batches cost %g at most from now on",
                *(self._model, cost, next_cost),
            )


@dataclass(slots=True)
class DeviceModel:
    """A model on a device: its measured sizes, and how much is reserved for it."""

    device: Device
    holder: MemoryHolder
    profile: MemoryProfile
    reserved_bytes: int


class MeasuredBatchLimit(BatchLimit):
    """The limit of a model on a device whose memory is reserved and measured."""

    def __init__(
        self,
        model: str,
        gate: DeviceGate,
        placed: DeviceModel,
        save_measurement: Callable[[DeviceModel], None],
        record_split: Callable[[], None] = lambda: None,
    ) -> None:
        """Start with what is known; `save_measurement` is called after each new measurement."""
        super().__init__(model, gate, record_split)
        self._placed = placed
        self._save_measurement = save_measurement

    @property
    def max_cost(self) -> float:
        """Return the largest cost: what fits, and not far beyond what was measured."""
        peaks = self._placed.profile.peaks
        untried = peaks[-1][0] * _GROWTH if peaks else 0.0
        return min(self._learned_cost, self.fitting_cost, untried)

    @property
    def fitting_cost(self) -> float:
        """Return the largest cost that fits into the reserved memory, as far as measured."""
        return self._placed.profile.largest_cost(self._placed.reserved_bytes)

    def is_measured(self, cost: float) -> bool:
        """Return whether a batch of at least this cost was measured."""
        return self._placed.profile.is_measured(cost)

    @contextlib.contextmanager
    def admit(self, cost: float, *, is_exclusive: bool = False) -> Iterator[None]:
        """Surround a batch; measure it if it is larger than any batch before."""
        profile = self._placed.profile
        known_bytes = profile.peak_bytes(cost) if profile.is_measured(cost) else None
        # A measurement would include whatever else runs on the device.
        is_exclusive = is_exclusive or known_bytes is None
        batch = Batch(cost, known_bytes)
        with super().admit(cost, is_exclusive=is_exclusive), self._on_device(batch):
            yield

    @contextlib.contextmanager
    def trial(self, cost: float) -> Iterator[None]:
        """Surround a batch that is not a job: measure it, and keep it within the reservation."""
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
        """Return the device's cached memory first, then note the batch."""
        self._placed.device.release_cached()
        super().note_exceeded(cost, next_cost)
