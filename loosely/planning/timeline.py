"""Time that goes from event to event."""

import heapq
from collections.abc import Callable
from itertools import count

Event = Callable[[], None]


class Timeline:
    """Events in the order of their time; those of one time in the order of their planning."""

    def __init__(self) -> None:
        self.now_seconds = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._order = count()

    def at(self, seconds: float, event: Event) -> None:
        """Have ``event`` called at ``seconds``."""
        heapq.heappush(self._events, (seconds, next(self._order), event))

    def after(self, seconds: float, event: Event) -> None:
        """Have ``event`` called so much later."""
        self.at(self.now_seconds + seconds, event)

    def run(self, until_seconds: float) -> None:
        """Call what is due up to ``until_seconds``."""
        while self._events and self._events[0][0] <= until_seconds:
            self.now_seconds, _, event = heapq.heappop(self._events)
            event()
