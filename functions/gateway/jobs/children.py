"""Child jobs: jobs that a model submits to other models while its own job runs.

The empty blob `children/<parent id>/<child id>` is created before the child job is started. If the
process dies in between, the blob remains, and readers ignore it.
"""

import asyncio
import contextlib
import hashlib
import logging
import uuid
from dataclasses import dataclass
from typing import Final

from contract.names import EVENT_CANCEL
from contract.streams import encode_stop, stop_log
from gateway.clock import Clock
from gateway.durable import Durable
from gateway.errors import FinalInstance, Unavailable, UnknownInstance
from gateway.jobs.lifecycle import EndRecorder, Jobs, is_line
from gateway.jobs.model import JobOutcome, JobStatus, Record, is_final, tenant_of
from gateway.jobs.progress import ProgressStore
from gateway.keys import owner_of
from gateway.storage.blobs import Blobs
from gateway.storage.logs import LogWriter

CHILDREN: Final = "children/"
"""The prefix of the names of the blobs."""

MAX_DEPTH: Final = 4
"""How many ancestors a child job may have."""

MAX_LISTED: Final = 1000
"""How many child jobs of one parent are found."""

_READS_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


def child_blob(parent_id: str, child_id: str) -> str:
    """Return the name of the blob that links a child job to its parent."""
    return f"{CHILDREN}{parent_id}/{child_id}"


def child_id(parent_id: str, key: str) -> str:
    """Return the id of the child job that the parent submits with this key.

    A parent that runs again after a crash finds the child jobs of its first run by the same ids.
    The id is a UUIDv7 with the time of the parent, so lists show the child beside its parent.
    Raises ValueError if `parent_id` is not a UUID.
    """
    digest = hashlib.sha256(f"{parent_id}\n{key}".encode("utf-8", "replace")).digest()
    data = bytearray(uuid.UUID(parent_id).bytes[:6] + digest[:10])
    data[6] = data[6] & 0x0F | 0x70
    data[8] = data[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(data)))


async def read_children(
    durable: Durable, jobs: Jobs, blobs: Blobs, parent_id: str, limit: int = MAX_LISTED
) -> list[tuple[str, Record]]:
    """Return the ids and the current records of a job's children, at most `limit`."""
    prefix, names = f"{CHILDREN}{parent_id}/", list[str]()
    async for blob in blobs.list(prefix):
        names.append(blob.name.removeprefix(prefix))
        if len(names) >= limit:
            break
    found: list[tuple[str, Record]] = []
    for start in range(0, len(names), _READS_AT_ONCE):
        part = names[start : start + _READS_AT_ONCE]
        records = await asyncio.gather(*(jobs.find(durable, name) for name in part))
        found += [
            (name, record) for name, record in zip(part, records, strict=True) if record is not None
        ]
    return found


async def read_ancestors(durable: Durable, jobs: Jobs, job_id: str, record: Record) -> list[str]:
    """Return the names of the models of a job and of its ancestors, the job's own first."""
    models = [record["model"]]
    while (parent_id := record.get("parent")) is not None and len(models) <= MAX_DEPTH:
        found = await jobs.find(durable, parent_id)
        if found is None:
            break
        record = found
        models.append(record["model"])
    return models


@dataclass(frozen=True, slots=True)
class JobCancellation:
    """Cancels jobs together with their child jobs."""

    jobs: Jobs
    progress: ProgressStore
    blobs: Blobs
    stops: LogWriter
    ends: EndRecorder
    clock: Clock

    async def cancel(self, durable: Durable, job_id: str, record: Record) -> bool:
        """Cancel a queued job, or order the worker of a running job to stop; cancel its children.

        Returns False if the job ended before it could be cancelled. The cancellation or the order
        is stored before this method returns, so nothing is lost if this process dies afterwards.
        Raises UnknownInstance if the job does not exist.
        """
        started_at = await self.progress.order_stop(job_id, record["model"])
        try:
            # A line of a batch has no orchestration that could wait for its worker.
            if started_at is None or is_line(job_id):
                cancelled = JobOutcome.cancelled(self.clock(), started_at)
                recorded = await self.jobs.finish(durable, job_id, cancelled, record["model"])
                self.ends.record_end(record["model"], job_id, owner_of(tenant_of(record)))
                if self.progress.is_reported(record["model"]):
                    await self._announce_stop(job_id)  # it may run without having reported yet
                if started_at is None:
                    return recorded.status is JobStatus.CANCELLED
            else:
                await self._announce_stop(job_id)
                with contextlib.suppress(Unavailable):  # the orchestration also looks for the order
                    await durable.raise_event(job_id, EVENT_CANCEL, {"started_at": started_at})
        except FinalInstance:
            return False
        try:
            await self.cancel_children(durable, job_id)
        except Unavailable:
            # The worker of the parent also cancels the children when it stops.
            _log.warning("job %s: its child jobs could not be cancelled", job_id, exc_info=True)
        return True

    async def _announce_stop(self, job_id: str) -> None:
        """Append the order to the log that workers of concurrent models read.

        Without a line, a worker learns of the order from the response to its next report.
        """
        try:
            await self.stops.append(stop_log(self.clock()), encode_stop(job_id))
        except Unavailable as error:
            _log.warning("job %s: its worker learns late that it must stop: %s", job_id, error)

    async def cancel_children(self, durable: Durable, job_id: str) -> None:
        """Cancel the child jobs of a job that have not ended."""
        for name, record in await read_children(durable, self.jobs, self.blobs, job_id):
            if not is_final(record):
                with contextlib.suppress(UnknownInstance):
                    await self.cancel(durable, name, record)
