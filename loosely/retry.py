"""When to ask again, and how long to wait before."""

from collections.abc import Callable
from dataclasses import dataclass
from random import random

from loosely.errors import GatewayUnreachable, LooselyError, Problem, UnexpectedAnswer

_PASSING_STATUSES = frozenset({429, 502, 503, 504})
# A gateway tells its failures in problem documents. A bare 500 is its host's, whose app has died
# in mid-request and is about to be started again.
_PASSING_BARE_STATUSES = _PASSING_STATUSES | {500}


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is with a gateway that does not answer.

    The pause doubles from ``first_seconds`` to ``longest_seconds``, each drawn from its
    upper half, so that clients do not come back all at once; ``Retry-After`` is kept where
    it asks for more. ``total_seconds`` after the first failure the last one is raised, and
    at once where the next pause would end later than that; 0 never asks again.
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
        """Return how long to wait after the ``failures``-th failure in a row, or ``None``.

        ``elapsed_seconds`` counts from the first of them, ``draw`` gives 0 to 1.
        """
        if not passes(error):
            return None
        exponent = min(failures - 1, 30)
        widest = min(self.longest_seconds, self.first_seconds * 2.0**exponent)
        pause_seconds = widest * (1 + draw()) / 2
        if isinstance(error, Problem):
            pause_seconds = max(pause_seconds, error.retry_after_seconds or 0.0)
        return pause_seconds if elapsed_seconds + pause_seconds <= self.total_seconds else None


def passes(error: LooselyError) -> bool:
    """Tell whether asking again may help: no answer, or one that says so and carries no job."""
    match error:
        case GatewayUnreachable():
            return True
        case Problem():
            return error.job is None and error.status in _PASSING_STATUSES
        case UnexpectedAnswer():  # a proxy's own page
            return error.status in _PASSING_BARE_STATUSES
        case _:
            return False
