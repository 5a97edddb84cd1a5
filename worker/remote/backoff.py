"""How long to wait before the next try: doubling, and jittered so that workers do not march."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Delays from `first_seconds`, doubling up to `limit_seconds`, each cut by up to a half."""

    first_seconds: float = 0.05
    limit_seconds: float = 1.0
    chance: Callable[[], float] = random.random
    _next_seconds: float = 0.0

    def next(self) -> float:
        """The seconds to wait now; the following delay is longer."""
        whole_seconds = self._next_seconds or self.first_seconds
        self._next_seconds = min(whole_seconds * 2, self.limit_seconds)
        return whole_seconds * (1 - self.chance() / 2)

    def reset(self) -> None:
        """Begin again: the last try succeeded."""
        self._next_seconds = 0.0
