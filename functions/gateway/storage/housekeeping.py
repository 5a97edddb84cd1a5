"""Delete histories of orchestrations, and blobs, when their retention has ended.

The deleted blobs are those of idempotency keys, uploads, jobs, dead letters, workers, queue lengths
and minute sums. In Azure, lifecycle rules of the storage account later delete the blobs that this
module has missed.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from contract.names import DELIVERIES, HEARTBEATS, OUTCOMES, QUEUE_LENGTHS, SUMS
from gateway.dead_letters.store import DEAD_LETTERS
from gateway.durable import Durable
from gateway.jobs.children import CHILDREN
from gateway.operations.sums import SUMS_KEPT
from gateway.operations.workers import FORGOTTEN_AFTER
from gateway.services import Services
from gateway.storage.blobs import Blobs
from gateway.storage.uploads import delete_expired_uploads
from gateway.submission.idempotency import delete_expired_claims

MAX_LISTED: Final = 5_000
"""How many blobs of each prefix one run of the housekeeping may list. It runs every ten minutes."""

MAX_DELETED: Final = 500
"""How many blobs of each prefix one run of the housekeeping may delete."""

MAX_OUTCOMES_DELETED: Final = 5_000
"""How many outcomes one run of the housekeeping may delete. It runs every ten minutes.

This is enough for eight new jobs a second.
"""

_DELETIONS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


async def purge(durable: Durable, services: Services) -> int:
    """Delete expired idempotency keys, expired uploads, and histories whose retention has ended.

    Durable Functions can select histories by the time at which they were created, but not by the
    time at which they ended. Therefore the retention counts from the creation, and is the sum of
    RETENTION_HOURS and the longest deadline of a job. Returns the number of deleted histories.
    Raises Unavailable if a service fails.
    """
    now = services.clock()
    await delete_expired_claims(services.blobs, now - services.claim_lifetime)
    await delete_expired_uploads(services.blobs, now - services.longest_deadline)
    created_before = now - services.retention
    deleted = await durable.purge(created_before)
    if deleted:
        _log.info("deleted the histories of %d jobs created before %s", deleted, created_before)
    return deleted


async def delete_old_blobs(services: Services) -> int:
    """Delete blobs whose retention has ended; return the number of deleted blobs.

    The deleted blobs are those of dead letters, payloads, jobs, workers, queue lengths and minute
    sums (the counts of jobs in each minute). One call deletes only a limited number of blobs.
    Raises Unavailable if the blob storage fails.
    """
    blobs, now = services.blobs, services.clock()
    letters_before = now - timedelta(hours=services.settings.retention_hours)
    # A dead letter may be written at its job's deadline. A redriven job uses the same input, and
    # has as much time as the first job.
    payloads_before = letters_before - 2 * services.longest_deadline
    return sum(
        [
            await _delete_old(blobs, DEAD_LETTERS, letters_before, MAX_DELETED),
            await _delete_old(blobs, "inputs/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, "results/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, "progress/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, CHILDREN, payloads_before, MAX_DELETED),
            await _delete_old(blobs, DELIVERIES, payloads_before, MAX_DELETED),
            await _delete_old(blobs, OUTCOMES, payloads_before, MAX_OUTCOMES_DELETED),
            await _delete_old(blobs, HEARTBEATS, now - FORGOTTEN_AFTER, MAX_DELETED),
            await _delete_old(blobs, QUEUE_LENGTHS, now - FORGOTTEN_AFTER, MAX_DELETED),
            await _delete_old(blobs, SUMS, now - SUMS_KEPT, MAX_DELETED),
        ]
    )


async def _delete_old(blobs: Blobs, prefix: str, before: datetime, limit: int) -> int:
    listed = 0
    old: list[str] = []
    async for blob in blobs.list(prefix):
        listed += 1
        if blob.modified_at < before:
            old.append(blob.name)
        if listed >= MAX_LISTED or len(old) >= limit:
            break
    for start in range(0, len(old), _DELETIONS_AT_ONCE):
        names = old[start : start + _DELETIONS_AT_ONCE]
        await asyncio.gather(*(blobs.delete(name) for name in names))
    if old:
        _log.info(
            "deleted %d blobs with the prefix %s that were modified before %s",
            len(old),
            prefix,
            before,
        )
    return len(old)
