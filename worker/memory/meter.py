"""What a model holds, and what its batches need, where the CPU stands in for a card.

Counts the bytes of tensors, as a card's allocator would: what a model takes outside torch it must
say itself. Does nothing where no model has brought torch.
"""

import contextlib
import importlib
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

_MAX_DEPTH = 6
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, ModuleType, FunctionType)


def resident_bytes(thing: object) -> int:
    """The tensors that an object holds, in itself or in what it holds: each storage once."""
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
    """Count what this thread's tensor operations leave alive meanwhile.

    Gives a function that tells the most so far. `grown` hears of every new most and may raise,
    as an allocator does. Slow: for the few batches that are measured.
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
        """Follows each storage from the operation that made it to its end."""

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
