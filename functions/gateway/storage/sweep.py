"""Housekeeping of blobs: what nobody may ask for any more is deleted, a bounded amount each time.

In Azure a lifecycle rule of the storage account may do the same; then there is nothing left to do.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from contract.names import OUTCOMES
from gateway.queueing.letters import PREFIX
from gateway.services import Services

MOST_LOOKS: Final = 5_000
MOST_DELETIONS: Final = 500
"""Of each prefix, each time: a sweep comes every ten minutes and must not hold up the host."""

MOST_OUTCOME_DELETIONS: Final = 5_000
"""The same of outcomes, of which each job has one: eight jobs a second, all day."""

_DELETIONS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


async def sweep(services: Services) -> int:
    """Delete the dead letters, payloads, progress and outcomes past their retention.

    Returns how many blobs were deleted. Raises Unavailable.
    """
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
            # Each job has one.
            await _sweep(services, OUTCOMES, payloads_before, MOST_OUTCOME_DELETIONS),
        ]
    )


async def _sweep(services: Services, prefix: str, before: datetime, most: int | None = None) -> int:
    most = MOST_DELETIONS if most is None else most
    looks = 0
    old: list[str] = []
    async for blob in services.blobs.list(prefix):
        looks += 1
        if blob.modified_at < before:
            old.append(blob.name)
        if looks >= MOST_LOOKS or len(old) >= most:
            break
    for start in range(0, len(old), _DELETIONS_AT_ONCE):
        names = old[start : start + _DELETIONS_AT_ONCE]
        await asyncio.gather(*(services.blobs.delete(name) for name in names))
    if old:
        _log.info("deleted %d blobs %s… from before %s", len(old), prefix, before)
    return len(old)
