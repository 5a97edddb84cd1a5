"""What the worker asks of a device, whichever it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T", bound="Holder")


class Holder(Protocol):
    """Something that takes memory of the device: a loaded model."""

    def memory_bytes(self, cost: float) -> int:
        """What it takes outside torch while a batch of this cost runs; of cost 0, while none does.

        A model that uses torch alone declares nothing: that is counted.
        """
        ...


@dataclass(slots=True)
class Batch:
    """A batch to run: its cost, what it is known to take, or else what it was seen to take.

    A trial fails at once where it takes more than `limit_bytes`, though the device had it.
    """

    cost: float
    known_bytes: int | None = None
    limit_bytes: int | None = None
    measured_bytes: int | None = None


class Device(Protocol):
    """One device, as this process uses it. Sizes are what torch or the model's hook tell."""

    @property
    def key(self) -> str:
        """The same in all processes on this device, and for no other device."""
        ...

    @property
    def total_bytes(self) -> int:
        """What models may take together."""
        ...

    @property
    def used_bytes(self) -> int:
        """What this process has taken of it now."""
        ...

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """Build a model; returns it and what it takes. Raises what `is_out_of_memory` knows.

        It also fails where it takes more than the limit, though the device had it. Without one
        others may use the device meanwhile.
        """
        ...

    def unload(self, resident_bytes: int) -> None:
        """The model that took so much is gone: let go of what it leaves behind."""
        ...

    def running(self, holder: Holder, batch: Batch) -> AbstractContextManager[None]:
        """Around one batch, which is measured where its size is not known."""
        ...

    def release_cached(self) -> None:
        """Give back what is kept for later."""
        ...
