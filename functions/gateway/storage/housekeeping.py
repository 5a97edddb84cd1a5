"""Housekeeping: delete histories, claims, uploads and blobs past their retention.

A lifecycle rule of the storage account may delete the blobs too; then little is left to do here.
"""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from contract.names import OUTCOMES
from gateway.dead_letters.store import DEAD_LETTERS
from gateway.durable import Durable
from gateway.services import Services
from gateway.storage.blobs import Blobs
from gateway.storage.uploads import delete_expired_uploads
from gateway.submission.idempotency import delete_expired_claims

MAX_LISTED: Final = 5_000
"""How many blobs of a prefix one run lists at most. It runs every ten minutes."""

MAX_DELETED: Final = 500
"""How many blobs of a prefix one run deletes at most."""

MAX_OUTCOMES_DELETED: Final = 5_000
"""The same for outcomes. Each job has one: this is enough for eight jobs a second, all day."""

_DELETIONS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


async def purge(durable: Durable, services: Services) -> int:
    """Delete expired claims and uploads, and the histories of jobs past their retention.

    The store selects histories by the time of creation, and a job may last as long as the longest
    deadline. Returns how many histories were deleted. Raises Unavailable.
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
    """Delete the dead letters, payloads, progress and outcomes past their retention.

    Returns how many blobs were deleted. Raises Unavailable.
    """
    blobs = services.blobs
    letters_before = services.clock() - timedelta(hours=services.settings.retention_hours)
    # A dead letter may be written at its job's deadline, and a redriven job uses the same input
    # for as long again.
    payloads_before = letters_before - 2 * services.longest_deadline
    return sum(
        [
            await _delete_old(blobs, DEAD_LETTERS, letters_before, MAX_DELETED),
            await _delete_old(blobs, "inputs/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, "results/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, "progress/", payloads_before, MAX_DELETED),
            await _delete_old(blobs, OUTCOMES, payloads_before, MAX_OUTCOMES_DELETED),
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
        _log.info("deleted %d blobs %s… from before %s", len(old), prefix, before)
    return len(old)
