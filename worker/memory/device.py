"""The interface of a device with its memory, and its implementation for a CUDA GPU.

A size is the memory that torch's allocator reserves on the GPU, in whole blocks, plus the memory
that the model declares. A process uses one GPU, which CUDA_VISIBLE_DEVICES chooses.
`simulated_device` has another implementation.
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

# The CUDA context and libraries of each process use several hundred megabytes in addition to its
# models.
_USABLE_SHARE = 0.94
_CONTEXT_BYTES = 512 * 2**20


class MemoryHolder(Protocol):
    """Something that uses device memory, for example a `LoadedModel`."""

    def memory_bytes(self, cost: float) -> int:
        """Return how many bytes of device memory are used outside torch.

        These are the bytes in use while a batch of this cost runs. With cost 0, these are the bytes
        in use while no batch runs. The memory of torch's allocator is measured, and must not be
        included.
        """
        ...


@dataclass(slots=True)
class Batch:
    """A batch that runs on a device. Its memory does not include the loaded model itself.

    Attributes:
        cost: The sum of the costs of the batch's items, in the model's own unit.
        known_bytes: How much memory the batch needs, if that was measured before; otherwise None.
        limit_bytes: How much memory a trial batch may use. If it uses more, it fails, even if the
            device has more memory. None for no limit.
        measured_bytes: How much memory the batch used; set by the device if `known_bytes` is None.
    """

    cost: float
    known_bytes: int | None = None
    limit_bytes: int | None = None
    measured_bytes: int | None = None


class Device(Protocol):
    """A device that this process uses. Sizes include torch's memory and the models' own memory."""

    @property
    def key(self) -> str:
        """Return the unique name of the device, which is the same in all processes."""
        ...

    @property
    def total_bytes(self) -> int:
        """Return how many bytes of device memory all models together may use."""
        ...

    @property
    def used_bytes(self) -> int:
        """Return how many bytes of device memory this process uses now."""
        ...

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model on the device.

        Args:
            build: Builds the model.
            limit_bytes: How much memory the model may use. If it uses more, the load fails, even if
                the device has more memory. None for no limit: then other models may use the device
                at the same time.

        Returns:
            The model, and how many bytes of device memory it uses.

        Raises:
            Exception: Memory ran out (`is_out_of_memory` is true for the error), or `build` raised
                an error.
        """
        ...

    def unload(self, resident_bytes: int) -> None:
        """Release the device memory of a deleted model, which used `resident_bytes`."""
        ...

    def running(self, holder: MemoryHolder, batch: Batch) -> AbstractContextManager[None]:
        """Return a context manager for one batch. It measures the batch's memory if unknown."""
        ...

    def release_cached(self) -> None:
        """Release the memory that this process has cached but does not use."""
        ...


class CudaDevice:
    """The CUDA GPU that this process uses."""

    def __init__(self, torch: Any, shares: int = 1) -> None:
        """Read the size of the GPU's memory, and limit this process to one share of this memory.

        Args:
            torch: The module torch.
            shares: The number of pods that divide the GPU.
        """
        self._torch = torch
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        # For a process with a MIG slice, CUDA returns the slice's UUID.
        self.key = f"cuda-{properties.uuid}"
        _, all_bytes = torch.cuda.mem_get_info()
        self.total_bytes = usable_bytes(all_bytes, shares)
        if shares > 1:
            # The pods share no reservations, so torch enforces the limit of this process.
            torch.cuda.set_per_process_memory_fraction(self.total_bytes / all_bytes)

    @classmethod
    def find(cls, shares: int = 1) -> "CudaDevice | None":
        """Return the GPU; None if no model has imported torch, or the machine has no GPU."""
        torch = sys.modules.get("torch")
        return cls(torch, shares) if torch is not None and torch.cuda.is_available() else None

    @property
    def used_bytes(self) -> int:
        """Return how many bytes of GPU memory torch has reserved in this process."""
        return int(self._torch.cuda.memory_reserved())

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model; raise BudgetExceeded if it is then larger than the limit."""
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
                f"the model uses {size_bytes} bytes, but only {limit_bytes} are reserved for it"
            )
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """Give the memory of an unloaded model back to the GPU."""
        self.release_cached()

    @contextlib.contextmanager
    def running(self, holder: MemoryHolder, batch: Batch) -> Iterator[None]:
        """Run the body of the `with` block as a batch; measure the batch's memory if unknown."""
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
                f"the batch used {size_bytes} bytes, but only {batch.limit_bytes} were free for it"
            )
        batch.measured_bytes = size_bytes

    def release_cached(self) -> None:
        """Give the memory in torch's cache back to the GPU."""
        gc.collect()
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()


def usable_bytes(all_bytes: int, shares: int) -> int:
    """Return how many bytes of GPU memory the models of one share may use.

    The memory that the CUDA contexts of all processes need is subtracted.

    Args:
        all_bytes: The memory of the whole GPU.
        shares: The number of pods that divide the GPU.
    """
    contexts_bytes = max(all_bytes * (1 - _USABLE_SHARE), shares * _CONTEXT_BYTES)
    return max(0, int((all_bytes - contexts_bytes) / shares))
