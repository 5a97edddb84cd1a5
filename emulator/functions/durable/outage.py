"""While the app process is away: everyone who needs it waits for the same next try."""

import asyncio
from collections.abc import Callable

from emulator.functions.durable.timers import TimerQueue

_SHORTEST_MICROS = 50_000
_LONGEST_MICROS = 1_000_000


class Outage:
    """One delay for all, twice as long with each try in vain."""

    def __init__(self, timers: TimerQueue, now: Callable[[], int]) -> None:
        self._timers = timers
        self._now = now
        self._delay = _SHORTEST_MICROS
        self._gate: asyncio.Future[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether anyone waits."""
        return self._gate is not None

    async def wait(self) -> None:
        """Wait until it is time to try again."""
        if self._gate is None:
            self._gate = asyncio.get_running_loop().create_future()
            self._timers.set(self, self._now() + self._delay, self._open)
            self._delay = min(self._delay * 2, _LONGEST_MICROS)
        await asyncio.shield(self._gate)

    def over(self) -> None:
        """Note that the app answered."""
        self._delay = _SHORTEST_MICROS

    def _open(self) -> None:
        if self._gate is not None:
            self._gate.set_result(None)
            self._gate = None
