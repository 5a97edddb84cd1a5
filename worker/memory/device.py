"""A device and its memory: the interface, and a CUDA card.

Sizes are what torch's allocator takes of the card, in whole blocks, and what models declare. A
process uses one card; CUDA_VISIBLE_DEVICES chooses it. `simulated_device` has another device.
"""

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from worker.memory.device_errors import BudgetExceeded

T = TypeVar("T", bound="MemoryHolder")

# Each process's CUDA context and libraries take some hundred megabytes beside its models.
_USABLE_SHARE = 0.94
_CONTEXT_BYTES = 512 * 2**20


class MemoryHolder(Protocol):
    """Something that takes memory of the device: a loaded model."""

    def memory_bytes(self, cost: float) -> int:
        """Return the memory that it takes outside torch while a batch of this cost runs.

        With cost 0: while no batch runs. torch's own memory is measured, and not part of this.
        """
        ...


@dataclass(slots=True)
class Batch:
    """A batch to run.

    Attributes:
        cost: In the model's own unit.
        known_bytes: What the batch takes, if an earlier one was measured.
        limit_bytes: For a trial: it fails if it takes more, also if the device has more.
        measured_bytes: What the batch took; set by the device if `known_bytes` is None.
    """

    cost: float
    known_bytes: int | None = None
    limit_bytes: int | None = None
    measured_bytes: int | None = None


class Device(Protocol):
    """A device as this process uses it. Sizes come from torch and from the model's hook."""

    @property
    def key(self) -> str:
        """Return a name that is the same in all processes on this device, and unique to it."""
        ...

    @property
    def total_bytes(self) -> int:
        """Return how much memory all models together may take."""
        ...

    @property
    def used_bytes(self) -> int:
        """Return how much memory this process has taken now."""
        ...

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model; return it, and the bytes that it takes.

        Args:
            build: Builds the model.
            limit_bytes: The load fails if it takes more, also if the device has more. Without a
                limit, other models may use the device meanwhile.

        Raises:
            Exception: An error that `is_out_of_memory` recognises, or what `build` raises.
        """
        ...

    def unload(self, resident_bytes: int) -> None:
        """Free what a model of this size leaves behind after it is unloaded."""
        ...

    def running(self, holder: MemoryHolder, batch: Batch) -> AbstractContextManager[None]:
        """Run a batch, measuring its memory if unknown."""
        ...

    def release_cached(self) -> None:
        """Return cached memory to the device."""
        ...


class CudaDevice:
    """The CUDA card that this process uses."""

    def __init__(self, torch: Any, shares: int = 1) -> None:
        """Take one share of the card; `shares` is among how many pods the card is divided."""
        self._torch = torch
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        # For a process with a MIG slice, CUDA returns the slice's UUID.
        self.key = f"cuda-{properties.uuid}"
        _, all_bytes = torch.cuda.mem_get_info()
        self.total_bytes = usable_bytes(all_bytes, shares)
        if shares > 1:
            # The other pods share no files with this one: torch enforces the limit of this process.
            torch.cuda.set_per_process_memory_fraction(self.total_bytes / all_bytes)

    @classmethod
    def find(cls, shares: int = 1) -> "CudaDevice | None":
        """Return the card; None if no model has imported torch, or the machine has no card."""
        torch = sys.modules.get("torch")
        return cls(torch, shares) if torch is not None and torch.cuda.is_available() else None

    @property
    def used_bytes(self) -> int:
        """Return what torch has reserved in this process."""
        return int(self._torch.cuda.memory_reserved())

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model, and check the limit after it was built."""
        self.release_cached()
        before_bytes = self._torch.cuda.memory_reserved()
        holder = build()
        self.release_cached()
        taken_bytes = max(0, self._torch.cuda.memory_reserved() - before_bytes)
        size_bytes = taken_bytes + holder.memory_bytes(0)
        if limit_bytes is not None and size_bytes > limit_bytes:
            del holder
            self.release_cached()
            raise BudgetExceeded(
                f"the model takes {size_bytes} bytes, but {limit_bytes} are reserved for it"
            )
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """Return the memory of an unloaded model to the card."""
        self.release_cached()

    @contextlib.contextmanager
    def running(self, holder: MemoryHolder, batch: Batch) -> Iterator[None]:
        """Run a batch, measuring its memory if unknown."""
        if batch.known_bytes is not None:
            yield
            return
        cuda = self._torch.cuda
        self.release_cached()
        before_bytes = cuda.memory_reserved()
        cuda.reset_peak_memory_stats()
        yield
        cuda.synchronize()
        declared_bytes = holder.memory_bytes(batch.cost) - holder.memory_bytes(0)
        taken_bytes = max(0, cuda.max_memory_reserved() - before_bytes)
        size_bytes = taken_bytes + max(0, declared_bytes)
        if batch.limit_bytes is not None and size_bytes > batch.limit_bytes:
            raise BudgetExceeded(
                f"the batch took {size_bytes} bytes, but {batch.limit_bytes} are free for it"
            )
        batch.measured_bytes = size_bytes

    def release_cached(self) -> None:
        """Return torch's cached memory to the card."""
        gc.collect()
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()


def usable_bytes(all_bytes: int, shares: int) -> int:
    """Return how much of a card's share models may take, beside the contexts of all processes."""
    contexts_bytes = max(all_bytes * (1 - _USABLE_SHARE), shares * _CONTEXT_BYTES)
    return max(0, int((all_bytes - contexts_bytes) / shares))
