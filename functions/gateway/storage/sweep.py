"""Housekeeping of blobs: what nobody may ask for any more is deleted, a bounded amount each time.

In Azure a lifecycle rule of the storage account may do the same; then there is nothing left to do.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from gateway.queueing.letters import PREFIX
from gateway.services import Services

MOST_LOOKS: Final = 5_000
MOST_DELETIONS: Final = 500
"""Of each prefix, each time: a sweep comes every ten minutes and must not hold up the host."""

_log = logging.getLogger(__name__)


async def sweep(services: Services) -> int:
    """Delete what is past its retention: dead letters, inputs, results, progress; how many."""
    longest = timedelta(
        seconds=max(model.max_deadline_seconds for model in services.catalogue.values())
    )
    letters_before = services.clock() - timedelta(hours=services.settings.retention_hours)
    # A letter may be written when its job's time is over, and its input is then good for another.
    payloads_before = letters_before - 2 * longest
    return sum(
        [
            await _sweep(services, PREFIX, letters_before),
            await _sweep(services, "inputs/", payloads_before),
            await _sweep(services, "results/", payloads_before),
            await _sweep(services, "progress/", payloads_before),
        ]
    )


async def _sweep(services: Services, prefix: str, before: datetime) -> int:
    looks = 0
    old: list[str] = []
    async for blob in services.blobs.list(prefix):
        looks += 1
        if blob.modified_at < before:
            old.append(blob.name)
        if looks >= MOST_LOOKS or len(old) >= MOST_DELETIONS:
            break
    for name in old:
        await services.blobs.delete(name)
    if old:
        _log.info("deleted %d blobs %s… from before %s", len(old), prefix, before)
    return len(old)
