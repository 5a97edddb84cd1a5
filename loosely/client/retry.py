"""Decide whether to repeat a failed request, and how long to wait before the next attempt."""

from collections.abc import Callable
from dataclasses import dataclass
from random import random

from loosely.client.errors import GatewayUnreachable, LooselyError, Problem, UnexpectedAnswer

_TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
# The gateway reports its own failures as problem documents. A 500 without a problem document comes
# from the Functions host: the app crashed during the request, and the host restarts the app.
_TRANSIENT_STATUSES_WITHOUT_PROBLEM = _TRANSIENT_STATUSES | {500}


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a client repeats a request that fails, and how long it waits between attempts.

    The delay doubles from ``first_seconds`` to ``longest_seconds``, is shortened at random by up to
    half, and is at least ``Retry-After``. The client gives up ``total_seconds`` after the first
    failure, or ``connect_seconds`` after its start if it has never connected: the URL may be wrong.
    """

    first_seconds: float = 0.25
    longest_seconds: float = 8.0
    total_seconds: float = 60.0
    connect_seconds: float = 5.0

    def pause_seconds(
        self,
        error: LooselyError,
        failures: int,
        elapsed_seconds: float,
        draw: Callable[[], float] = random,
    ) -> float | None:
        """Return how many seconds to wait before the next attempt, or ``None`` to give up.

        ``elapsed_seconds`` is the time from the first to the last of ``failures`` in a row.
        """
        if not is_transient(error):
            return None
        exponent = min(failures - 1, 30)
        widest = min(self.longest_seconds, self.first_seconds * 2.0**exponent)
        pause_seconds = widest * (1 + draw()) / 2
        if isinstance(error, Problem):
            pause_seconds = max(pause_seconds, error.retry_after_seconds or 0.0)
        return pause_seconds if elapsed_seconds + pause_seconds <= self.total_seconds else None


def is_transient(error: LooselyError) -> bool:
    """Return whether the same request may succeed later, for example after status 503."""
    match error:
        case GatewayUnreachable():
            return True
        case Problem():
            return error.job is None and error.status in _TRANSIENT_STATUSES
        case UnexpectedAnswer():  # for example the error page of a proxy
            return error.status in _TRANSIENT_STATUSES_WITHOUT_PROBLEM
        case _:
            return False
