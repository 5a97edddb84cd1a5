"""How many jobs of a model are in its queue or at its workers while others wait in the room."""

import math
from typing import Final

from contract.catalogue import ModelEntry, Priority
from contract.queues import LOW_PRIORITY_MESSAGES_PER_WORKER, MESSAGES_PER_WORKER

BATCHES: Final = 2
RATE_SECONDS: Final = 0.5


def window(
    model: ModelEntry, priority: Priority, ready: int | None, seconds_per_job: float | None
) -> int:
    """Return the window of a model."""
    at_once = max(model.max_concurrent_jobs, model.max_batch_size)
    workers = max(1, ready or 0)
    rate = RATE_SECONDS / seconds_per_job if seconds_per_job else 0
    starts_next = MESSAGES_PER_WORKER
    if priority is Priority.LOW:
        starts_next = LOW_PRIORITY_MESSAGES_PER_WORKER
    return math.ceil(max(BATCHES * at_once * workers, starts_next * (workers + 1), rate))
