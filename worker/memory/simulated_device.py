"""A simulated device: a memory budget on the CPU, shared by all worker processes of the machine.

The memory of models and batches is charged against one budget. A charge that exceeds the budget
fails at once, like an allocation on a full GPU. So memory admission can be tested without a GPU.
The bytes of tensors are counted as the allocator of a GPU would count them. Memory outside torch
must be declared by the model. Without torch, only declared memory is counted.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from worker.memory.device import Batch, MemoryHolder, T
from worker.memory.device_errors import BudgetExceeded
from worker.memory.gpu_sharing.lock_files import LockFileFolder

_RECORD = "record.json"
_USED = "used_bytes"
_MAX_DEPTH = 6
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, FunctionType)


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """Statistics of the simulated memory, for all processes together.

    Attributes:
        peak_bytes: The most bytes that all processes together have used.
        refused_count: How many charges were refused because they exceeded the budget.
    """

    peak_bytes: int = 0
    refused_count: int = 0

    @classmethod
    def read(cls, folder: Path) -> "AccountRecord":
        """Read the record from its file in this folder; return an empty record if that fails."""
        try:
            return cls(**json.loads((folder / _RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Write the record to its file in this folder, and replace an older record."""
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        Path(name).replace(folder / _RECORD)


class MemoryAccount:
    """Charges memory against the budget that all processes share.

    Any thread may call the methods. When a process ends, its charges end, too.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._files = LockFileFolder(folder)
        self._used_bytes = 0
        with self._files.locked():
            self._file = self._files.add({_USED: 0})

    @property
    def used_bytes(self) -> int:
        """Return how many bytes of the budget this process uses now."""
        return self._used_bytes

    def charge(self, size_bytes: int) -> None:
        """Charge `size_bytes`; raise BudgetExceeded if that would exceed the budget."""
        with self._files.locked():
            in_use = sum(int(document.get(_USED, 0)) for document in self._files.read().values())
            record = AccountRecord.read(self._folder)
            if in_use + size_bytes > self._budget_bytes:
                AccountRecord(record.peak_bytes, record.refused_count + 1).write(self._folder)
                raise BudgetExceeded(
                    f"{size_bytes} bytes were requested and {in_use} are in use, which is over the "
                    f"budget of {self._budget_bytes} bytes"
                )
            if in_use + size_bytes > record.peak_bytes:
                AccountRecord(in_use + size_bytes, record.refused_count).write(self._folder)
            self._write(self._used_bytes + size_bytes)

    def release(self, size_bytes: int) -> None:
        """Give `size_bytes` back to the budget."""
        with self._files.locked():
            self._write(self._used_bytes - size_bytes)

    def close(self) -> None:
        """Give all bytes that this process uses back to the budget."""
        with self._files.locked():
            self._file.remove()
        self._files.close()

    def _write(self, used_bytes: int) -> None:
        self._file.write({_USED: used_bytes})
        self._used_bytes = used_bytes


class BatchCharge:
    """The charged memory of one batch, which grows while the batch runs."""

    def __init__(self, account: MemoryAccount, limit_bytes: int | None) -> None:
        self._account = account
        self._limit_bytes = limit_bytes
        self.size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Increase the charge to `size_bytes` in total, but never decrease it.

        Raises:
            BudgetExceeded: `size_bytes` exceeds the limit of the batch or the budget.
        """
        _check(size_bytes, self._limit_bytes)
        more_bytes = size_bytes - self.size_bytes
        if more_bytes > 0:
            self._account.charge(more_bytes)
            self.size_bytes = size_bytes

    def release(self) -> None:
        """Give the charged bytes back to the budget, after the batch has ended."""
        if self.size_bytes:
            self._account.release(self.size_bytes)
            self.size_bytes = 0


class SimulatedDevice:
    """The device `cpu`, whose memory is a budget."""

    key = "cpu"

    def __init__(self, account: MemoryAccount, total_bytes: int) -> None:
        self._account = account
        self.total_bytes = total_bytes

    @property
    def used_bytes(self) -> int:
        """Return how many bytes of the budget this process uses now."""
        return self._account.used_bytes

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model, and charge its size after it was built."""
        holder = build()
        size_bytes = resident_bytes(holder) + holder.memory_bytes(0)
        _check(size_bytes, limit_bytes)
        self._account.charge(size_bytes)
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """Give the charged bytes of an unloaded model back to the budget."""
        gc.collect()
        self._account.release(resident_bytes)

    @contextlib.contextmanager
    def running(self, holder: MemoryHolder, batch: Batch) -> Iterator[None]:
        """Run the body of the `with` block as a batch, and charge the memory that it needs.

        If the batch's memory is unknown, count and charge the bytes of the batch's tensors while
        they are created.
        """
        charge = BatchCharge(self._account, batch.limit_bytes)
        try:
            if batch.known_bytes is not None:
                charge.grow_to(batch.known_bytes)
                yield
                return
            declared_bytes = holder.memory_bytes(batch.cost) - holder.memory_bytes(0)
            charge.grow_to(declared_bytes)
            with metering(lambda live: charge.grow_to(declared_bytes + live)) as peak:
                yield
                batch.measured_bytes = max(declared_bytes, 0) + peak()
        finally:
            charge.release()

    def release_cached(self) -> None:
        """Run Python's garbage collector; this device has no cache to release."""
        gc.collect()


def _check(size_bytes: int, limit_bytes: int | None) -> None:
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise BudgetExceeded(f"{size_bytes} bytes are needed, but only {limit_bytes} are reserved")


def resident_bytes(thing: object) -> int:
    """Return the size of all tensors that an object references, directly or indirectly, in bytes.

    Storage that several tensors share is counted once.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    storages: dict[int, int] = {}
    for tensor in _tensors(thing, torch, set(), _MAX_DEPTH):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextlib.contextmanager
def metering(grown: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Count the bytes of the tensors that this thread creates in the `with` block.

    Counting is slow, so it is used only for the few batches that are measured.

    Args:
        grown: Called with each new peak in bytes. It may raise an error, like an allocator that
            runs out of memory.

    Yields:
        A function that returns the peak since the start of the block, in bytes.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield lambda: 0
        return
    mode = _live_bytes(torch, grown)
    with mode:
        yield lambda: int(mode.peak_bytes)


def _tensors(thing: object, torch: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if id(thing) in seen or isinstance(thing, _LEAVES) or not depth:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, torch.nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    else:
        for part in _parts(thing):
            yield from _tensors(part, torch, seen, depth - 1)


def _parts(thing: object) -> Iterable[object]:
    if isinstance(thing, Mapping):
        return list(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, MethodType):
        return [thing.__self__]
    held = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return held + [getattr(thing, name) for name in slots if hasattr(thing, name)]


def _live_bytes(torch: Any, grown: Callable[[int], None]) -> Any:
    dispatch = importlib.import_module("torch.utils._python_dispatch")
    leaves = importlib.import_module("torch.utils._pytree").tree_leaves

    def keys(tree: object) -> set[int]:
        return {_key(leaf) for leaf in leaves(tree) if isinstance(leaf, torch.Tensor)}

    class LiveBytes(dispatch.TorchDispatchMode):  # type: ignore[name-defined,misc]
        """Counts the bytes of each tensor's storage, from its creation until it is freed."""

        def __init__(self) -> None:
            super().__init__()
            self.live_bytes = 0
            self.peak_bytes = 0
            self._known: set[int] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = func(*args, **(kwargs or {}))
            given = keys((args, kwargs))
            for leaf in leaves(made):
                if isinstance(leaf, torch.Tensor) and _key(leaf) not in given:
                    self._follow(_key(leaf), leaf.untyped_storage())
            return made

        def _follow(self, key: int, storage: Any) -> None:
            if key in self._known:
                return
            size_bytes = storage.nbytes()
            self._known.add(key)
            self.live_bytes += size_bytes
            weakref.finalize(storage, self._ended, key, size_bytes)
            if self.live_bytes > self.peak_bytes:
                self.peak_bytes = self.live_bytes
                grown(self.peak_bytes)

        def _ended(self, key: int, size_bytes: int) -> None:
            self._known.discard(key)
            self.live_bytes -= size_bytes

    return LiveBytes()


def _key(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)
