"""How long to wait before the next try: growing, and jittered so that workers do not march."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Before a message goes back to its queue: by the deliveries that it had before this one.
_REDELIVERY_SECONDS: Final = (1.0, 4.0, 15.0, 60.0)


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


def delay_seconds(delivery_count: int, chance: Callable[[], float] = random.random) -> float:
    """How long a job that could not be done now is kept from being delivered again."""
    whole_seconds = _REDELIVERY_SECONDS[min(delivery_count, len(_REDELIVERY_SECONDS) - 1)]
    return whole_seconds * (1 - chance() / 2)
