"""A card. Sizes are what torch's allocator takes of it, in whole blocks, and what models declare.

One process uses one card; which, CUDA_VISIBLE_DEVICES says.
"""

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

from worker.memory.device import Batch, Holder, T
from worker.memory.errors import BudgetExceeded

# Each process's context and libraries take some hundred megabytes that no model accounts for.
_USABLE_SHARE = 0.94
_CONTEXT_BYTES = 512 * 2**20


class Card:
    """The card that this process uses. See Device."""

    def __init__(self, torch: Any, shares: int = 1) -> None:
        """`shares` is among how many pods the card is divided: this process takes one share."""
        self._torch = torch
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        # Of a MIG slice, where the process has one: CUDA tells that one's then.
        self.key = f"cuda-{properties.uuid}"
        _, all_bytes = torch.cuda.mem_get_info()
        self.total_bytes = usable_bytes(all_bytes, shares)
        if shares > 1:
            # The others cannot be asked: torch itself keeps this process from taking of theirs.
            torch.cuda.set_per_process_memory_fraction(self.total_bytes / all_bytes)

    @classmethod
    def find(cls, shares: int = 1) -> "Card | None":
        """The card, if some model has brought torch and there is one."""
        torch = sys.modules.get("torch")
        return cls(torch, shares) if torch is not None and torch.cuda.is_available() else None

    @property
    def used_bytes(self) -> int:
        """See Device."""
        return int(self._torch.cuda.memory_reserved())

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """See Device. The limit is looked at when it is there."""
        self.release_cached()
        before_bytes = self._torch.cuda.memory_reserved()
        holder = build()
        self.release_cached()
        taken_bytes = max(0, self._torch.cuda.memory_reserved() - before_bytes)
        size_bytes = taken_bytes + holder.memory_bytes(0)
        if limit_bytes is not None and size_bytes > limit_bytes:
            del holder
            self.release_cached()
            raise BudgetExceeded(f"it takes {size_bytes} bytes, of {limit_bytes} reserved for it")
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """See Device."""
        self.release_cached()

    @contextlib.contextmanager
    def running(self, holder: Holder, batch: Batch) -> Iterator[None]:
        """See Device."""
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
            raise BudgetExceeded(f"a batch took {size_bytes} bytes, of {batch.limit_bytes} for it")
        batch.measured_bytes = size_bytes

    def release_cached(self) -> None:
        """See Device."""
        gc.collect()
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()


def usable_bytes(all_bytes: int, shares: int) -> int:
    """What models may take of a card's share, beside the contexts of all who have one."""
    contexts_bytes = max(all_bytes * (1 - _USABLE_SHARE), shares * _CONTEXT_BYTES)
    return max(0, int((all_bytes - contexts_bytes) / shares))
