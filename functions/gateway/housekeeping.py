"""Delete histories of orchestrations, and blobs, when their retention has ended.

The deleted blobs are those of idempotency keys, uploads, jobs, dead letters, workers and
minute sums. In Azure, lifecycle rules of the storage account later delete the blobs that this
module has missed.

The housekeeping runs every ten minutes. Each kind of data is one step. A step that fails, and a
blob that cannot be deleted, do not stop the other steps. Each run records in a blob whether all its
steps have succeeded, see `gateway.operations.housekeeping_runs`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from contract.names import DELIVERIES, HEARTBEATS, OUTCOMES, SUMS, UPLOADS
from gateway.dead_letters.store import DEAD_LETTERS
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.jobs.children import CHILDREN
from gateway.jobs.recovery import recover
from gateway.operations.housekeeping_runs import record_run
from gateway.operations.sums import SUMS_KEPT
from gateway.queues.workers import FORGOTTEN_AFTER
from gateway.services import Services
from gateway.storage.blobs import Blobs, ListedBlob
from gateway.storage.uploads import has_expired
from gateway.submission.idempotency import CLAIMS

MAX_LISTED: Final = 5_000
"""How many blobs of each prefix one run of the housekeeping may list. It runs every ten minutes."""

MAX_DELETED: Final = 500
"""How many blobs of each prefix one run of the housekeeping may delete."""

MAX_FREQUENT_DELETED: Final = 5_000
"""How many blobs of a prefix one run may delete if most jobs write such a blob.

This is enough for eight new jobs a second.
"""

STEP_SECONDS: Final = 60.0
"""How long one step may take. The next run continues it."""

_DELETIONS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


async def run(durable: Durable, services: Services) -> dict[str, int]:
    """Delete all data whose retention has ended, and end stuck orchestrations.

    Durable Functions can select histories by the time at which they were created, but not by the
    time at which they ended. Therefore the retention counts from the creation, and is the sum of
    RETENTION_HOURS and the longest deadline of a job.

    Returns for each step that succeeded how many items it has deleted or ended.
    """
    blobs, now = services.blobs, services.clock()
    letters_before = now - timedelta(hours=services.settings.retention_hours)
    # A dead letter may be written at its job's deadline. A redriven job uses the same input, and
    # has as much time as the first job.
    payloads_before = letters_before - 2 * services.longest_deadline
    # A job may read its upload until the job's deadline.
    uploads_before = now - services.longest_deadline
    old_blobs = {
        CLAIMS: (now - services.claim_lifetime, MAX_FREQUENT_DELETED),
        DEAD_LETTERS: (letters_before, MAX_DELETED),
        "inputs/": (payloads_before, MAX_DELETED),
        "results/": (payloads_before, MAX_DELETED),
        "progress/": (payloads_before, MAX_DELETED),
        CHILDREN: (payloads_before, MAX_DELETED),
        DELIVERIES: (payloads_before, MAX_DELETED),
        OUTCOMES: (payloads_before, MAX_FREQUENT_DELETED),
        HEARTBEATS: (now - FORGOTTEN_AFTER, MAX_DELETED),
        SUMS: (now - SUMS_KEPT, MAX_DELETED),
    }
    steps: dict[str, Callable[[], Awaitable[int]]] = {
        "orchestrations": lambda: recover(durable, services.jobs, now, services.retention),
        "histories": lambda: durable.purge(now - services.retention),
        UPLOADS: lambda: _delete(
            blobs,
            UPLOADS,
            lambda blob: has_expired(blob.name, uploads_before),
            MAX_FREQUENT_DELETED,
        ),
        **{
            prefix: partial(_delete_before, blobs, prefix, *limits)
            for prefix, limits in old_blobs.items()
        },
    }
    counts: dict[str, int] = {}
    failed: dict[str, str] = {}
    for name, step in steps.items():
        try:
            async with asyncio.timeout(STEP_SECONDS):
                counts[name] = await step()
        except Exception as error:  # noqa: BLE001 - a defect in one step must not stop the others
            failed[name] = str(error) or f"it took more than {STEP_SECONDS:.0f} s"
            _log.error("the housekeeping of %s failed, and is repeated: %s", name, failed[name])
    if found := {name: count for name, count in counts.items() if count}:
        _log.info("the housekeeping has deleted or ended: %s", found)
    try:
        await record_run(blobs, now, failed)
    except Unavailable as error:
        _log.warning("the end of the housekeeping cannot be recorded: %s", error)
    return counts


async def _delete_before(blobs: Blobs, prefix: str, before: datetime, most: int) -> int:
    return await _delete(blobs, prefix, lambda blob: blob.modified_at < before, most)


async def _delete(
    blobs: Blobs, prefix: str, is_old: Callable[[ListedBlob], bool], most: int
) -> int:
    """Delete up to `most` old blobs with a prefix; return their number.

    If blobs cannot be deleted, the others are deleted. Then the first error is raised.
    """
    old: list[ListedBlob] = []
    listed = 0
    async for blob in blobs.list(prefix):
        listed += 1
        if is_old(blob):
            old.append(blob)
        # The names of claims are in no order of time, so all claims are listed.
        if len(old) == most or (listed == MAX_LISTED and prefix != CLAIMS):
            break
    errors: list[BaseException] = []
    for start in range(0, len(old), _DELETIONS_AT_ONCE):
        # The ETag protects a blob that was written again in the meantime.
        calls = (blobs.delete(blob.name, blob.etag) for blob in old[start:][:_DELETIONS_AT_ONCE])
        ended = await asyncio.gather(*calls, return_exceptions=True)
        errors += [each for each in ended if each is not None]
    if errors:
        raise errors[0]
    return len(old)
