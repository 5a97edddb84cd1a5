"""How many jobs of a model are in its queue or at its workers while others wait in the room."""

import math
from typing import Final

from contract.catalogue import Priority
from contract.queues import LOW_PRIORITY_MESSAGES_PER_WORKER, MESSAGES_PER_WORKER

BATCHES: Final = 2
"""How many batches each worker has: one that runs, and one that waits."""

RATE_SECONDS: Final = {Priority.NORMAL: 0.5, Priority.LOW: 4.0}
"""For how long the window has jobs. A batch of lines, which are low, keeps three seconds' worth."""


def window(
    at_once: int, priority: Priority, ready: int | None, seconds_per_job: float | None
) -> int:
    """Return how many jobs of a model with a priority may be in its queue or at its workers.

    It is at least what lets KEDA start one more worker. For a model with small batches that is more
    than two batches.

    Args:
        at_once: How many jobs a worker runs at the same time.
        ready: How many workers are ready; unknown counts as one, as does none.
        seconds_per_job: The mean time between two replies; None if unknown.
    """
    workers = max(1, ready or 0)
    is_low = priority is Priority.LOW
    per_worker = LOW_PRIORITY_MESSAGES_PER_WORKER if is_low else MESSAGES_PER_WORKER
    rate = RATE_SECONDS[priority] / seconds_per_job if seconds_per_job else 0.0
    return math.ceil(max(BATCHES * at_once * workers, per_worker * (workers + 1), rate))
