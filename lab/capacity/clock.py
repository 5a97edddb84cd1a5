"""The clock of a simulation. The time jumps from one scheduled event to the next event."""

import heapq
from collections.abc import Callable
from itertools import count

Callback = Callable[[], None]


class SimulationClock:
    """Runs callbacks in the order of their times.

    Callbacks with the same time run in the order in which they were scheduled.
    """

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self._scheduled: list[tuple[float, int, Callback]] = []
        self._order = count()

    def at(self, seconds: float, callback: Callback) -> None:
        """Schedule ``callback`` to run ``seconds`` after the start of the simulation."""
        heapq.heappush(self._scheduled, (seconds, next(self._order), callback))

    def after(self, seconds: float, callback: Callback) -> None:
        """Schedule ``callback`` to run ``seconds`` after the current simulated time."""
        self.at(self.now_seconds + seconds, callback)

    def run(self, until_seconds: float) -> None:
        """Run, in order, the callbacks whose time is not later than ``until_seconds``."""
        while self._scheduled and self._scheduled[0][0] <= until_seconds:
            self.now_seconds, _, callback = heapq.heappop(self._scheduled)
            callback()
