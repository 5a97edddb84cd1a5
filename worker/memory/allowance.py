"""What the batches of a loaded model may cost, and what running them teaches."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from worker.memory.device import Batch, Device, Holder
from worker.memory.gate import Gate
from worker.memory.profile import Profile

_log = logging.getLogger(__name__)

# Where sizes are unknown, a batch is at most so much larger than the largest that was measured.
_GROWTH = 2.0


class Allowance:
    """One loaded model's. Belongs to the thread that runs its batches.

    Without a device nothing is reserved or measured, and limits are learned all the same.
    """

    def __init__(
        self,
        model: str,
        gate: Gate,
        split: Callable[[], None] = lambda: None,
    ) -> None:
        """`split` hears of every batch that did not fit."""
        self._model = model
        self._gate = gate
        self._split = split
        self._learned_cost = inf

    @property
    def max_cost(self) -> float:
        """The most that the next batch should cost. One item may cost more, and is tried."""
        return self._learned_cost

    @contextlib.contextmanager
    def running(self, cost: float, *, alone: bool = False) -> Iterator[None]:
        """Around a batch of this cost. Raises what the device raises where it has no room."""
        with self._gate.alone() if alone else self._gate.beside_others():
            yield

    def exceeded(self, cost: float, next_cost: float) -> None:
        """A batch of this cost ran out of memory; the next ones should cost less, if they can."""
        self._split()
        if next_cost < min(cost, self._learned_cost):
            self._learned_cost = next_cost
            _log.warning(
                "%s: out of memory at a batch of cost %g; batches cost %g at most from now on",
                *(self._model, cost, next_cost),
            )


@dataclass(slots=True)
class Residency:
    """A model on a device: its sizes as far as they are known, and what is reserved for it."""

    device: Device
    holder: Holder
    profile: Profile
    held_bytes: int


class MeasuredAllowance(Allowance):
    """The same on a device, whose memory was reserved."""

    def __init__(
        self,
        model: str,
        gate: Gate,
        residency: Residency,
        measured: Callable[[Residency], None],
        split: Callable[[], None] = lambda: None,
    ) -> None:
        """`measured` hears when more of the model's sizes is known."""
        super().__init__(model, gate, split)
        self._residency = residency
        self._measured = measured

    @property
    def max_cost(self) -> float:
        """See Allowance: also what fits into what is reserved, as far as that was measured."""
        peaks = self._residency.profile.peaks
        untried = peaks[-1][0] * _GROWTH if peaks else 0.0
        return min(self._learned_cost, self.fitting_cost, untried)

    @property
    def fitting_cost(self) -> float:
        """The most that fits into what is reserved, by what was measured."""
        return self._residency.profile.largest_cost(self._residency.held_bytes)

    def is_measured(self, cost: float) -> bool:
        """Whether a batch as large as this was measured."""
        return self._residency.profile.is_measured(cost)

    @contextlib.contextmanager
    def running(self, cost: float, *, alone: bool = False) -> Iterator[None]:
        """See Allowance; a batch larger than any before is measured."""
        profile = self._residency.profile
        known_bytes = profile.peak_bytes(cost) if profile.is_measured(cost) else None
        # What ran beside a measurement would be measured along.
        apart = alone or known_bytes is None
        with super().running(cost, alone=apart), self._on_device(Batch(cost, known_bytes)):
            yield

    @contextlib.contextmanager
    def trial(self, cost: float) -> Iterator[None]:
        """Around a batch that is no job's: it is measured, and keeps to what is reserved."""
        room_bytes = self._residency.held_bytes - self._residency.profile.resident_bytes
        with super().running(cost, alone=True), self._on_device(Batch(cost, None, room_bytes)):
            yield

    @contextlib.contextmanager
    def _on_device(self, batch: Batch) -> Iterator[None]:
        held = self._residency
        with held.device.running(held.holder, batch):
            yield
        if batch.measured_bytes is not None:
            held.profile = held.profile.with_peak(batch.cost, batch.measured_bytes)
            self._measured(held)

    def exceeded(self, cost: float, next_cost: float) -> None:
        """See Allowance; what the device keeps for later is given back first."""
        self._residency.device.release_cached()
        super().exceeded(cost, next_cost)
