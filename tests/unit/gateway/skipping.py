"""An event loop with simulated time: it never waits for a timer, but advances its clock."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop that, instead of waiting, sets its clock to the time of the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        loop: Any = self
        if not loop._ready and loop._scheduled:
            self._now = max(self._now, loop._scheduled[0]._when)
        base: Any = super()
        base._run_once()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a SkippingLoop, and return the coroutine's result."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(main)
