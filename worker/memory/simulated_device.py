"""A simulated device: a memory limit on the CPU, which all worker processes of the machine share.

A model or batch that would exceed this budget fails at once, like an allocation on a full GPU. So
tests can show without a GPU how models share memory. The device counts the bytes of tensors. A
model must declare all other memory.
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

from worker.memory.device import Batch, CudaDevice, MemoryHolder, T
from worker.memory.device_errors import BudgetExceeded
from worker.memory.lock_files import LockFileFolder

_RECORD = "record.json"
_USED = "used_bytes"
_MAX_DEPTH = 6
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, FunctionType)


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """Statistics of the simulated memory of all processes: its peak, and refused requests."""

    peak_bytes: int = 0
    refused_count: int = 0

    @classmethod
    def read(cls, folder: Path) -> "AccountRecord":
        """Read the statistics from a file in this folder, or return zeros."""
        try:
            return cls(**json.loads((folder / _RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Replace the file with the statistics in this folder."""
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        Path(name).replace(folder / _RECORD)


class MemoryAccount:
    """Counts the memory of this process until it ends, within one budget for all processes."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._files = LockFileFolder(folder)
        self.used_bytes = 0
        """How many bytes of the budget this process uses now."""
        with self._files.locked():
            self._file = self._files.add({_USED: 0})

    def charge(self, size_bytes: int) -> None:
        """Count `size_bytes` as used. Raises BudgetExceeded if all processes exceed the budget."""
        with self._files.locked():
            in_use = sum(int(document.get(_USED, 0)) for document in self._files.read().values())
            record = AccountRecord.read(self._folder)
            if in_use + size_bytes > self._budget_bytes:
                AccountRecord(record.peak_bytes, record.refused_count + 1).write(self._folder)
                raise BudgetExceeded(
                    f"{size_bytes} bytes were requested, but {in_use} of the budget of "
                    f"{self._budget_bytes} bytes are already in use"
                )
            if in_use + size_bytes > record.peak_bytes:
                AccountRecord(in_use + size_bytes, record.refused_count).write(self._folder)
            self._write(self.used_bytes + size_bytes)

    def release(self, size_bytes: int) -> None:
        """Count `size_bytes` as no longer used by this process."""
        with self._files.locked():
            self._write(self.used_bytes - size_bytes)

    def _write(self, used_bytes: int) -> None:
        self._file.write({_USED: used_bytes})
        self.used_bytes = used_bytes


class SimulatedDevice:
    """The device `cpu`, whose memory is limited by a budget."""

    key = "cpu"
    name = "cpu"

    def __init__(self, account: MemoryAccount, total_bytes: int) -> None:
        self._account = account
        self.total_bytes = total_bytes

    @property
    def used_bytes(self) -> int:
        """How many bytes of the budget this process uses now."""
        return self._account.used_bytes

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model and charge its memory. Return it and its size, or raise BudgetExceeded."""
        holder = build()
        size_bytes = resident_bytes(holder) + holder.memory_bytes(0)
        _check(size_bytes, limit_bytes)
        self._account.charge(size_bytes)
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """Release the bytes of the budget that an unloaded model has used."""
        gc.collect()
        self._account.release(resident_bytes)

    @contextlib.contextmanager
    def running(self, holder: MemoryHolder, batch: Batch) -> Iterator[None]:
        """Run the block as one batch, and charge its memory, or raise BudgetExceeded."""
        charged_bytes = 0

        def grow_to(size_bytes: int) -> None:
            nonlocal charged_bytes
            _check(size_bytes, batch.limit_bytes)
            if size_bytes > charged_bytes:
                self._account.charge(size_bytes - charged_bytes)
                charged_bytes = size_bytes

        try:
            if batch.known_bytes is not None:
                grow_to(batch.known_bytes)
                yield
                return
            declared_bytes = holder.memory_bytes(batch.cost) - holder.memory_bytes(0)
            grow_to(declared_bytes)
            with metering(lambda live: grow_to(declared_bytes + live)) as peak:
                yield
                batch.measured_bytes = max(declared_bytes, 0) + peak()
        finally:
            if charged_bytes:
                self._account.release(charged_bytes)

    def release_cached(self) -> None:
        """Run Python's garbage collector."""
        gc.collect()


Device = CudaDevice | SimulatedDevice
"""The device on which this process runs models."""


def _check(size_bytes: int, limit_bytes: int | None) -> None:
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise BudgetExceeded(
            f"{size_bytes} bytes of memory are needed, but only {limit_bytes} are reserved"
        )


def resident_bytes(obj: object) -> int:
    """Return the size of all tensors in an object, with shared storage once; 0 without torch."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    storages: dict[int, int] = {}
    for tensor in _tensors(obj, torch, set(), _MAX_DEPTH):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextlib.contextmanager
def metering(grown: Callable[[int], None]) -> Iterator[Callable[[], int]]:
    """Count the bytes of the tensors that this thread creates in the block. This is slow.

    `grown` gets each new maximum, and may raise an error. Yields a function that returns the peak.
    """
    torch = sys.modules.get("torch")
    with _live_bytes(torch, grown) if torch else contextlib.nullcontext() as mode:
        yield lambda: int(mode.peak_bytes) if mode else 0


def _tensors(obj: object, torch: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if id(obj) in seen or isinstance(obj, _LEAVES) or not depth:
        return
    seen.add(id(obj))
    if isinstance(obj, torch.Tensor):
        yield obj
    elif isinstance(obj, torch.nn.Module):
        yield from obj.parameters()
        yield from obj.buffers()
    else:
        for part in _parts(obj):
            yield from _tensors(part, torch, seen, depth - 1)


def _parts(obj: object) -> Iterable[object]:
    if isinstance(obj, Mapping):
        return list(obj.values())
    if isinstance(obj, list | tuple | set | frozenset):
        return list(obj)
    if isinstance(obj, MethodType):
        return [obj.__self__]
    held = list(vars(obj).values()) if hasattr(obj, "__dict__") else []
    slots = [name for kind in type(obj).__mro__ for name in getattr(kind, "__slots__", ())]
    return held + [getattr(obj, name) for name in slots if hasattr(obj, name)]


def _live_bytes(torch: Any, grown: Callable[[int], None]) -> Any:
    dispatch = importlib.import_module("torch.utils._python_dispatch")
    leaves = importlib.import_module("torch.utils._pytree").tree_leaves

    def keys(tree: object) -> set[int]:
        return {_key(leaf) for leaf in leaves(tree) if isinstance(leaf, torch.Tensor)}

    class LiveBytes(dispatch.TorchDispatchMode):  # type: ignore[name-defined,misc]
        """Counts the tensors that are created while it is active and that still exist."""

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
