"""Limit the memory that inputs use from the start of their decoding until the model runs."""

import threading
from collections.abc import Callable
from typing import Final

from worker.errors import InvalidInput

SMALL_BYTES: Final = 16 * 1024 * 1024
"""Inputs that need at most this much memory count as small, and never wait for large inputs."""

SMALL_TOTAL_BYTES: Final = 64 * 1024 * 1024
"""The memory in bytes that the small inputs of one model share."""
_CHECK_SECONDS: Final = 0.2
_MIB: Final = 1024 * 1024


class MemoryBudget:
    """Limits the memory that several inputs use together. Any thread may call the methods."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._free_bytes = total_bytes
        self._changed = threading.Condition()

    @property
    def used_bytes(self) -> int:
        """How many bytes are reserved."""
        return self.total_bytes - self._free_bytes

    def reserve(self, size_bytes: int, check: Callable[[], None]) -> "MemoryShare":
        """Wait until `size_bytes` are free, and reserve them.

        `check` is called several times per second during the wait, and may raise an error to end
        it. Raises InvalidInput if the budget is smaller than `size_bytes`.
        """
        if size_bytes > self.total_bytes:
            raise InvalidInput(
                f"the decoded input would need {size_bytes / _MIB:.0f} MiB of memory; this worker "
                f"accepts at most {self.total_bytes / _MIB:.0f} MiB; send a smaller input"
            )
        while not self._take(size_bytes):
            # `check` may send a request, and the others must not wait for its answer.
            check()
        return MemoryShare(self, size_bytes)

    def _take(self, size_bytes: int) -> bool:
        """Reserve bytes, after a short wait if too few are free. Return whether this succeeded."""
        with self._changed:
            if self._free_bytes < size_bytes:
                self._changed.wait(_CHECK_SECONDS)
            has_room = self._free_bytes >= size_bytes
            if has_room:
                self._free_bytes -= size_bytes
            return has_room

    def release(self, size_bytes: int) -> None:
        """Make `size_bytes` of the reserved bytes free again."""
        with self._changed:
            self._free_bytes += size_bytes
            self._changed.notify_all()


class MemoryShare:
    """The memory that one input has reserved in a budget. Any thread may call the methods."""

    def __init__(self, budget: MemoryBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes
        self._lock = threading.Lock()

    @property
    def is_large(self) -> bool:
        """Whether these bytes are reserved, and belong to the budget for large inputs."""
        return self._size_bytes > SMALL_BYTES

    def release(self) -> None:
        """Make the bytes free again. Further calls do nothing."""
        with self._lock:
            size_bytes, self._size_bytes = self._size_bytes, 0
        if size_bytes:
            self._budget.release(size_bytes)


class InputMemory:
    """The memory for small inputs of one model, and the memory for large inputs of all."""

    def __init__(self, large: MemoryBudget) -> None:
        self._small = MemoryBudget(SMALL_TOTAL_BYTES)
        self._large = large

    def reserve(self, size_bytes: int, check: Callable[[], None]) -> MemoryShare:
        """Wait for memory in the budget for small or for large inputs, and reserve it."""
        budget = self._small if size_bytes <= SMALL_BYTES else self._large
        return budget.reserve(size_bytes, check)
