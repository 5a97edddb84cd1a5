"""What a model may tell of its inputs and of its memory, beside what it must."""

from collections.abc import Callable
from math import isfinite
from typing import Any

from worker.errors import InferenceFailed


class Hooks:
    """The optional methods of a model's class; what it does not have is answered for it."""

    def __init__(self, infer: object) -> None:
        self._infer = infer

    def cost(self, item: Any) -> float:
        """What a prepared item takes of a batch, in the model's own unit; 1 unless it says."""
        hook = self._find("cost")
        cost = 1.0 if hook is None else float(hook(item))
        if not (isfinite(cost) and cost > 0):
            raise InferenceFailed(f"the model gave {cost} as an input's cost")
        return cost

    def memory_bytes(self, cost: float) -> int:
        """What it takes outside torch while a batch of this cost runs; of cost 0, while none does.

        Nothing, unless it says.
        """
        hook = self._find("memory_bytes")
        return 0 if hook is None else max(0, int(hook(cost)))

    def sample(self) -> Any | None:
        """A prepared item such as jobs bring, or None where the model has none to offer."""
        hook = self._find("sample")
        return None if hook is None else hook()

    def close(self) -> None:
        """The model is about to be unloaded."""
        if (hook := self._find("close")) is not None:
            hook()

    def _find(self, name: str) -> Callable[..., Any] | None:
        hook = getattr(self._infer, name, None)
        return hook if callable(hook) else None
