"""Decide whether to repeat a failed request, and after which pause."""

from collections.abc import Callable
from dataclasses import dataclass
from random import random

from loosely.client.errors import GatewayUnreachable, LooselyError, Problem, UnexpectedAnswer

_TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
# The gateway reports its own failures as problem documents. A 500 without a problem document comes
# # from the Functions host: the app crashed during the request, and the host restarts the app.
_TRANSIENT_STATUSES_WITHOUT_PROBLEM = _TRANSIENT_STATUSES | {500}


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a client keeps repeating a request that fails.

    The pause doubles from ``first_seconds`` to ``longest_seconds``. Each pause is shortened at
    random by up to half, so that many clients do not retry at the same time. A longer
    ``Retry-After`` replaces the pause. The client raises the last error when the next pause would
    end more than ``total_seconds`` after the first failure. With ``total_seconds=0`` it
    never repeats a request.
    """

    first_seconds: float = 0.25
    longest_seconds: float = 8.0
    total_seconds: float = 60.0

    def pause_seconds(
        self,
        error: LooselyError,
        failures: int,
        elapsed_seconds: float,
        draw: Callable[[], float] = random,
    ) -> float | None:
        """Return how long to wait before the next attempt, or ``None`` to give up.

        Args:
            error: The error of the last attempt.
            failures: How many attempts in a row have failed, from 1.
            elapsed_seconds: The time in seconds since the first of these failures.
            draw: Returns a random number from 0 to 1.
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
    """Return whether the same request may succeed later.

    True if there was no response, or if the response's status is transient. False if the response
    contains a job: that job has ended, and repeating the request would not change that.
    """
    match error:
        case GatewayUnreachable():
            return True
        case Problem():
            return error.job is None and error.status in _TRANSIENT_STATUSES
        case UnexpectedAnswer():  # for example the error page of a proxy
            return error.status in _TRANSIENT_STATUSES_WITHOUT_PROBLEM
        case _:
            return False
