"""The interface of a device, and the CUDA GPU that this process uses.

The memory of a model or batch is the memory that torch's allocator reserves on the GPU, plus the
memory that the model's method `memory_bytes` declares. CUDA_VISIBLE_DEVICES selects the GPU.
"""

import contextlib
import gc
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from worker.errors import DeviceMissing
from worker.memory.device_errors import BudgetExceeded

T = TypeVar("T", bound="MemoryHolder")

# The CUDA context and libraries of each process use several hundred megabytes in addition to its
# models.
_USABLE_SHARE = 0.94
_CONTEXT_BYTES = 512 * 2**20

# Linux describes the loaded NVIDIA driver in this file, also inside containers.
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_DRIVER_VERSION = re.compile(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s")


class MemoryHolder(Protocol):
    """An object that uses device memory, for example a `LoadedModel`."""

    def memory_bytes(self, cost: float) -> int:
        """Return how many bytes the object uses outside torch during a batch of this cost."""


@dataclass(slots=True)
class Batch:
    """A batch that runs on a device. Its bytes do not include the loaded model.

    `known_bytes` is None if the need was never measured; then the device sets `measured_bytes`. A
    batch that uses more than `limit_bytes` fails, even if the device has more free memory.
    """

    cost: float
    known_bytes: int | None = None
    limit_bytes: int | None = None
    measured_bytes: int | None = None


class CudaDevice:
    """The CUDA GPU that this process uses."""

    def __init__(self, torch: Any, shares: int = 1) -> None:
        """Limit this process to its share of the GPU's memory, one of `shares` of equal size."""
        self._torch = torch
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        # For a process with a MIG slice, CUDA returns the slice's UUID.
        self.key = f"cuda-{properties.uuid}"
        self.name = str(properties.name)
        _, all_bytes = torch.cuda.mem_get_info()
        self.total_bytes = usable_bytes(all_bytes, shares)
        if shares > 1:
            # The pods share no reservations, so torch enforces the limit of this process.
            torch.cuda.set_per_process_memory_fraction(self.total_bytes / all_bytes)

    @classmethod
    def find(cls, shares: int = 1) -> "CudaDevice | None":
        """Return the GPU; None if no model has imported torch, or if the machine has no GPU."""
        torch = sys.modules.get("torch")
        return cls(torch, shares) if torch is not None and torch.cuda.is_available() else None

    @property
    def used_bytes(self) -> int:
        """How many bytes of GPU memory torch has reserved in this process."""
        return int(self._torch.cuda.memory_reserved())

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model on the GPU. Return it and its size, or raise BudgetExceeded."""
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
        """Release the GPU memory of an unloaded model."""
        self.release_cached()

    @contextlib.contextmanager
    def running(self, holder: MemoryHolder, batch: Batch) -> Iterator[None]:
        """Run the block as one batch. Raises BudgetExceeded if its measured memory is too large."""
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
        """Release the GPU memory that torch keeps in its cache and does not use."""
        gc.collect()
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()


def usable_bytes(all_bytes: int, shares: int) -> int:
    """Return how many bytes the models of one of `shares` pods may use, beside CUDA's contexts."""
    contexts_bytes = max(all_bytes * (1 - _USABLE_SHARE), shares * _CONTEXT_BYTES)
    return max(0, int((all_bytes - contexts_bytes) / shares))


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device of a process, and the versions of the software that the device needs.

    `device` is `cpu` without a GPU. A version is empty if the software is not there: `driver`
    without a loaded driver, `cuda` for a CPU build of torch, `torch` if it is not imported.
    """

    device: str
    driver: str
    cuda: str
    torch: str


def describe_device(name: str) -> DeviceInfo:
    """Describe the device with this name, and its software."""
    torch = sys.modules.get("torch")
    return DeviceInfo(
        device=name,
        driver=driver_version(),
        cuda=str(torch.version.cuda or "") if torch else "",
        torch=str(torch.__version__) if torch else "",
    )


def driver_version(file: Path = _DRIVER_FILE) -> str:
    """Return the version of the NVIDIA driver that Linux has loaded; empty without a driver."""
    try:
        found = _DRIVER_VERSION.search(file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def require_cuda() -> None:
    """Raise DeviceMissing with the reason if torch can use no CUDA GPU.

    torch falls back to the CPU without an error, for example if the driver is older than the CUDA
    version of torch's build.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise DeviceMissing(_missing("torch is not installed")) from None
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        raise DeviceMissing(_missing(f"torch {torch.__version__} is a build for the CPU"))
    try:
        torch.cuda.init()
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        driver = driver_version() or "none"
        reason = f"torch {torch.__version__} with CUDA {torch.version.cuda}, driver {driver}"
        raise DeviceMissing(_missing(f"{reason}: {first_line}")) from error
    raise DeviceMissing(_missing("torch finds no GPU"))


def _missing(reason: str) -> str:
    return (
        f"WORKER_REQUIRE_DEVICE is cuda, but no GPU can be used: {reason}. Repair the node or the "
        "image, or unset WORKER_REQUIRE_DEVICE and start the worker again"
    )
