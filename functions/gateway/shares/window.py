"""How many jobs of a model are in its queue or at its workers while others wait in the room."""

import math
from typing import Final

from contract.catalogue import Priority
from contract.queues import LOW_PRIORITY_MESSAGES_PER_WORKER, MESSAGES_PER_WORKER

BATCHES: Final = 2
"""How many batches each worker has: one that runs, and one that waits."""

RATE_SECONDS: Final = {Priority.NORMAL: 0.5, Priority.LOW: 4.0}
"""For how long the window has jobs. A batch of lines, which are low, keeps three seconds' worth."""

COLD_WORKERS: Final = 8
"""How many workers KEDA may start while none is ready. No tenant waits for another then."""


def window(
    at_once: int, priority: Priority, ready: int | None, seconds_per_job: float | None
) -> int:
    """Return how many jobs of a model with a priority may be in its queue or at its workers.

    KEDA counts only the jobs in the queue. So the window has as many as let it double the workers.
    For a model with small batches that is more than two batches.

    Args:
        at_once: How many jobs a worker runs at the same time.
        ready: How many workers are ready; unknown counts as none.
        seconds_per_job: The mean time between two replies; None if unknown.
    """
    workers = max(1, ready or 0)
    wanted = 2 * workers if ready else COLD_WORKERS
    is_low = priority is Priority.LOW
    per_worker = LOW_PRIORITY_MESSAGES_PER_WORKER if is_low else MESSAGES_PER_WORKER
    rate = RATE_SECONDS[priority] / seconds_per_job if seconds_per_job else 0.0
    return math.ceil(max(BATCHES * at_once * workers, per_worker * wanted, rate))


def correct_seconds(seconds_per_job: float, ends_a_second: float) -> float:
    """Return the time of a job with which the window has half to all of what ends in a second.

    The estimate of one instance is too short if its worker waits for something else than the
    device. It is too long if other instances receive replies; then the window would be too short
    for a fast model, and the rate would fall further.
    """
    each = 1 / ends_a_second if ends_a_second else math.inf
    return max(min(seconds_per_job, each), RATE_SECONDS[Priority.NORMAL] * each)
