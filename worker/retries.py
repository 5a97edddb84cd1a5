"""Compute how long to wait before a retry."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# How many seconds a failed message waits before it is delivered again, after the first, second,
# third and each later delivery.
_REDELIVERY_SECONDS: Final = (1.0, 4.0, 15.0, 60.0)
_FIRST_SECONDS: Final = 0.05
_LIMIT_SECONDS: Final = 1.0

Wait = Callable[[float], bool]
"""The type of a function that sleeps, and returns False if the caller must not try again.

The argument is the number of seconds to sleep.
"""


def backoff_seconds(
    attempt: int,
    first_seconds: float = _FIRST_SECONDS,
    limit_seconds: float = _LIMIT_SECONDS,
    chance: Callable[[], float] = random.random,
) -> float:
    """Return how long to wait after a failed try. `attempt` is 0 for the first."""
    # At random, so that workers do not all retry at the same time.
    # With the exponent 60, each delay has reached its limit. A larger exponent could overflow.
    doubled_seconds = min(first_seconds * 2.0 ** min(attempt, 60), limit_seconds)
    whole_seconds = doubled_seconds if attempt else first_seconds
    return whole_seconds * (1 - chance() / 2)


@dataclass(slots=True)
class RetryDelays:
    """Computes the delays between the tries of a loop that never gives up."""

    first_seconds: float = _FIRST_SECONDS
    limit_seconds: float = _LIMIT_SECONDS
    chance: Callable[[], float] = random.random
    _attempt: int = 0

    def next(self) -> float:
        """Return how many seconds to wait before the next try."""
        delay_seconds = backoff_seconds(
            self._attempt, self.first_seconds, self.limit_seconds, self.chance
        )
        self._attempt += 1
        return delay_seconds

    def reset(self) -> None:
        """Start again with the first delay. The caller must call this method after a success."""
        self._attempt = 0


def redelivery_delay_seconds(
    failed_count: int, chance: Callable[[], float] = random.random
) -> float:
    """Return how long the worker holds a failed message, so that it is not delivered at once."""
    whole_seconds = _REDELIVERY_SECONDS[min(failed_count, len(_REDELIVERY_SECONDS) - 1)]
    return whole_seconds * (1 - chance() / 2)
