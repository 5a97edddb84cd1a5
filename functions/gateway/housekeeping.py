"""Delete histories and blobs when their retention has ended, and end stuck orchestrations.

In Azure, lifecycle rules of the storage account later delete the blobs that this module has missed.

A storage provider can leave an orchestration running for ever, for example after two hosts have run
the same part of the orchestration ("split brain"). Callers see that the job has ended, but the
webhook is not delivered, and the history is never deleted.

Each run is every ten minutes and has one step for each kind of data. A step that fails, and a
blob that cannot be deleted, do not stop the others. A blob records whether all steps have
succeeded, see `gateway.operations.housekeeping_runs`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from contract.names import (
    DELIVERIES,
    ENDS,
    FILES,
    HEARTBEATS,
    ORCHESTRATOR_BATCH,
    OUTCOMES,
    SUMS,
    UPLOADS,
    batch_instance,
)
from contract.queues import LONGEST_BATCH_SECONDS
from contract.streams import STOPS, STREAMS
from gateway.batches.ids import created_at, line_of
from gateway.batches.store import BATCHES, BATCHES_OF, BatchStore
from gateway.dead_letters.store import DEAD_LETTERS
from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.errors import Unavailable, UnknownInstance
from gateway.jobs.children import CHILDREN
from gateway.jobs.ends import ENDS_KEPT
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.listing import IdRange, id_at, list_newest
from gateway.jobs.model import is_final, read_ticket
from gateway.operations.housekeeping_runs import record_run
from gateway.operations.sums import SUMS_KEPT
from gateway.queues.workers import FORGOTTEN_AFTER
from gateway.services import Services
from gateway.shares.places import PLACES
from gateway.shares.room import ROOMS
from gateway.shares.usage import USAGE, USAGE_KEPT
from gateway.storage.blobs import Blobs, ListedBlob
from gateway.storage.uploads import has_expired
from gateway.submission.idempotency import CLAIMS
from gateway.webhooks.activities import start_delivery

MAX_LISTED: Final = 5_000
"""How many blobs of each prefix one run may list."""

MAX_DELETED: Final = 500
"""How many blobs of each prefix one run may delete."""

MAX_FREQUENT_DELETED: Final = 5_000
"""The same for blobs that most jobs write. It is enough for eight new jobs a second."""

STEP_SECONDS: Final = 60.0
"""How long one step may take. The next run continues it."""

FOLLOWS_WITHIN: Final = timedelta(minutes=10)
"""An orchestration counts as stuck if it still runs this long after its job has ended."""

STARTS_WITHIN: Final = timedelta(minutes=2)
"""How old a batch must be to count as one whose orchestration is missing."""

STUCK_AFTER: Final = timedelta(minutes=30)
"""The orchestration of a batch counts as stuck if it has done nothing for so long."""

LONGEST_BATCH: Final = timedelta(seconds=LONGEST_BATCH_SECONDS)

MAX_JOBS: Final = 500
"""How many of the newest jobs one run checks."""

_RUNNING: Final = frozenset(status for status in RuntimeStatus if not status.is_final)

_DELETIONS_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


async def run(durable: Durable, services: Services) -> dict[str, int]:
    """Run all steps; return how many items each step that succeeded has deleted or ended.

    Durable Functions can select histories by their creation, but not by their end. Therefore the
    retention counts from the creation, and is RETENTION_HOURS after the longest deadline.
    """
    blobs, now = services.blobs, services.clock()
    letters_before = now - timedelta(hours=services.settings.retention_hours)
    # A dead letter may be written at its job's deadline. A redriven job uses the same input, and
    # has as much time as the first job.
    payloads_before = letters_before - 2 * services.longest_deadline
    # A job may read its upload until the job's deadline, and a line until that of its batch.
    uploads_before = now - max(services.longest_deadline, LONGEST_BATCH)
    old_blobs = {
        CLAIMS: (now - services.claim_lifetime, MAX_FREQUENT_DELETED),
        DEAD_LETTERS: (letters_before, MAX_DELETED),
        # A file is not shown after RETENTION_HOURS, but the lines of a batch may use it longer.
        FILES: (letters_before - LONGEST_BATCH, MAX_DELETED),
        "inputs/": (payloads_before, MAX_DELETED),
        "results/": (payloads_before, MAX_DELETED),
        "progress/": (payloads_before, MAX_DELETED),
        CHILDREN: (payloads_before, MAX_DELETED),
        DELIVERIES: (payloads_before, MAX_DELETED),
        OUTCOMES: (payloads_before, MAX_FREQUENT_DELETED),
        STREAMS: (payloads_before, MAX_FREQUENT_DELETED),
        BATCHES: (letters_before - LONGEST_BATCH, MAX_FREQUENT_DELETED),
        BATCHES_OF: (letters_before - LONGEST_BATCH, MAX_DELETED),
        ENDS: (now - ENDS_KEPT, MAX_DELETED),
        STOPS: (now - ENDS_KEPT, MAX_DELETED),
        HEARTBEATS: (now - FORGOTTEN_AFTER, MAX_DELETED),
        SUMS: (now - SUMS_KEPT, MAX_DELETED),
        USAGE: (now - USAGE_KEPT, MAX_DELETED),
        # The deadlines of all jobs with a place have passed.
        PLACES: (uploads_before, MAX_DELETED),
        # The leader of a room deletes its logs sooner. The deadlines of these jobs have passed.
        ROOMS: (uploads_before, MAX_DELETED),
    }
    steps: dict[str, Callable[[], Awaitable[int]]] = {
        "orchestrations": lambda: recover(durable, services.jobs, now, services.retention),
        "batches": lambda: restart_batches(durable, services.batch_store, now),
        "histories": lambda: durable.purge(now - services.retention),
        UPLOADS: lambda: _delete(
            blobs, UPLOADS, lambda b: has_expired(b.name, uploads_before), MAX_FREQUENT_DELETED
        ),
    }
    # What a line has used or made lives as long as if its job had the deadline of its batch.
    of_lines = max(timedelta(), LONGEST_BATCH - services.longest_deadline)
    for prefix, (before, most) in old_blobs.items():
        is_old = partial(_is_older, before, before - of_lines)
        steps[prefix] = partial(_delete, blobs, prefix, is_old, most)
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


def _is_older(before: datetime, before_of_lines: datetime, blob: ListedBlob) -> bool:
    return blob.modified_at < (before_of_lines if _is_of_line(blob.name) else before)


def _is_of_line(blob: str) -> bool:
    """Return whether a blob belongs to the job of a line, whose id is in its name."""
    return any(line_of(part) is not None for part in blob.split("/")[1:2])


async def _delete(
    blobs: Blobs, prefix: str, is_old: Callable[[ListedBlob], bool], most: int
) -> int:
    """Delete up to `most` old blobs; return their number, or raise the first error at the end."""
    old: list[ListedBlob] = []
    listed = 0
    async for blob in blobs.list(prefix):
        # A batch has so many, all kept for days, that they would hide the jobs' blobs behind them.
        listed += not _is_of_line(blob.name)
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


async def recover(durable: Durable, jobs: Jobs, now: datetime, retention: timedelta) -> int:
    """Terminate orchestrations that outlive their jobs, deliver their webhooks, count them."""
    ids = IdRange(below=id_at(now - FOLLOWS_WITHIN), above=id_at(now - retention))
    page = await list_newest(durable, ids, _RUNNING, MAX_JOBS, lambda *pair: pair)
    ended = 0
    for job_id, instance in page.jobs:
        found = await jobs.record_of(job_id, instance)
        if found is None or not is_final(found):
            continue
        if datetime.fromisoformat(found["finished_at"]) < now - FOLLOWS_WITHIN:
            await _end(durable, job_id, instance)
            ended += 1
    return ended


async def restart_batches(durable: Durable, store: BatchStore, now: datetime) -> int:
    """Start the orchestrations of batches that have none; return how many were started or ended.

    One that is stuck is terminated, and started again by the next run.
    """
    changed = 0
    for batch_id in await store.ids(None):
        if now - created_at(batch_id) < STARTS_WITHIN:
            continue
        if (await store.shown_state(batch_id)).status.is_final:
            continue
        instance_id = batch_instance(batch_id)
        instance = await durable.status(instance_id)
        if instance is None or instance.runtime_status.is_final:
            _log.warning("batch %s has no orchestration; starting one", batch_id)
            await durable.start(instance_id, batch_id, ORCHESTRATOR_BATCH)
        elif now - instance.updated_at > STUCK_AFTER:
            _log.warning("the orchestration of batch %s is stuck; terminating it", batch_id)
            with contextlib.suppress(UnknownInstance):
                await durable.terminate(instance_id, "this orchestration is stuck")
        else:
            continue
        changed += 1
    return changed


async def _end(durable: Durable, job_id: str, instance: InstanceSnapshot) -> None:
    if read_ticket(instance.input).webhook_url is not None:
        await start_delivery(job_id, durable)
    _log.warning(
        "job %s has ended, but its orchestration is stuck; terminating the orchestration", job_id
    )
    with contextlib.suppress(UnknownInstance):
        await durable.terminate(job_id, "the job has ended, but this orchestration is stuck")
