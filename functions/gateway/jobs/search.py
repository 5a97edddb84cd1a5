"""Find jobs by tenant, model, status, problem code, label, metadata, time and id.

A search reads the orchestrations of jobs, newest first, as `listing` describes. No index is
written, so a submit costs nothing more, and every instance of the app finds the same jobs.

One page makes at most MAX_QUERIES queries, and so reads at most 6,400 orchestrations. For each job
that they find, it may also read the recorded outcome and the progress. If the page is not full
then, its cursor continues the search.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus
from gateway.jobs.lifecycle import Jobs
from gateway.jobs.listing import IdRange, Listing, id_at, list_newest
from gateway.jobs.model import (
    JobStatus,
    Record,
    first_record_of,
    is_final,
    recorded_output,
    tenant_of,
)
from gateway.jobs.progress import ProgressStore

ANY_ENDING: Final = "*"
"""At the end of a label or an id in a search, stands for any further characters."""

JOB_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The form of the ids that the gateway creates."""

CANCELLED_CODE: Final = "cancelled"
"""The code with which a search finds cancelled jobs, which have no error."""

# A job gets its id before its time of creation, and the two may be some seconds apart.
_ID_BEFORE_CREATION: Final = timedelta(minutes=1)

# How many outcomes are read from the blob storage at the same time for a page.
_READS_AT_ONCE: Final = 16

_NOT_ENDED: Final = frozenset(status for status in RuntimeStatus if not status.is_final)
_ENDED: Final = frozenset(status for status in RuntimeStatus if status.is_final)
_RUNTIME_STATUSES: Final[Mapping[JobStatus, frozenset[RuntimeStatus]]] = {
    JobStatus.QUEUED: _NOT_ENDED,
    JobStatus.RUNNING: _NOT_ENDED,
    JobStatus.CANCELLING: _NOT_ENDED,
    # A final status of the job is possible for each way in which its orchestration ended.
    **{status: _ENDED for status in JobStatus if status.is_final},
}


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The conditions that the jobs of a search must meet. A member that is None allows any value.

    `models` contains names of entries of the catalogue, and `metadata` is `NAME=VALUE`.
    `created_after` is inclusive, `created_before` is exclusive.
    """

    tenant: str | None = None
    models: frozenset[str] | None = None
    status: JobStatus | None = None
    code: str | None = None
    label: str | None = None
    metadata: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    id: str | None = None

    def narrow(self, ids: IdRange) -> IdRange:
        """Return the part of a range of ids that can contain matching jobs."""
        above, below = ids.above, ids.below
        if self.created_after is not None:
            above = max(above, id_at(self.created_after - _ID_BEFORE_CREATION))
        if self.created_before is not None:
            below = min(below, id_at(self.created_before))
        if self.id is not None:
            prefix = self.id.removesuffix(ANY_ENDING)
            selected = IdRange.of_prefix(prefix)
            above, below = max(above, selected.above), min(below, selected.below)
        return IdRange(below, above)

    @property
    def runtime_statuses(self) -> frozenset[RuntimeStatus] | None:
        """The runtime statuses of matching jobs; empty for any, None if no job can match."""
        if self.status is None:
            return _ENDED if self.code is not None else frozenset()
        if self.code is not None and not self.status.is_final:
            return None
        return _RUNTIME_STATUSES[self.status]

    def may_match(self, instance: InstanceSnapshot, found: Record) -> bool:
        """Return whether a job can match, without reading the job's recorded outcome.

        `found` is the record that the orchestration returned, or the one with which it started.
        """
        is_other_model = self.models is not None and found["model"] not in self.models
        if is_other_model or self.tenant not in {None, tenant_of(found)}:
            return False
        if not self.matches_texts(found):
            return False
        created_at = datetime.fromisoformat(found["created_at"])
        if self.created_after is not None and created_at < self.created_after:
            return False
        if self.created_before is not None and created_at >= self.created_before:
            return False
        if is_final(found) or (self.status is None and self.code is None):
            return self.matches(found)
        # Without a final record, the recorded outcome decides, which is read later.
        wants_end = self.code is not None or (self.status is not None and self.status.is_final)
        return wants_end is instance.runtime_status.is_final

    def matches_texts(self, found: Mapping[str, Any]) -> bool:
        """Return whether a job or a batch has the label and the metadata of this filter."""
        if self.label is not None and not _is_match(self.label, found.get("label")):
            return False
        if self.metadata is None:
            return True
        pairs = found.get("metadata", {}).items()
        return any(_is_match(self.metadata, f"{name}={value}") for name, value in pairs)

    def matches(self, record: Record) -> bool:
        """Return whether the job's current record has the status and the code of this filter."""
        return self.status in {None, record["status"]} and self.code in {None, _code_of(record)}


@dataclass(frozen=True, slots=True)
class JobSearch:
    """Finds jobs. A page may need much processor time, so each tenant reads one at a time."""

    jobs: Jobs
    progress: ProgressStore
    # A lock is deleted when no search uses it.
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def find(
        self, durable: Durable, wanted: JobFilter, ids: IdRange, limit: int, tenant: str
    ) -> Listing[tuple[str, Record]]:
        """Return a page with the ids and records of up to `limit` matching jobs, newest first.

        There may be a next page even if this page is not full. `tenant` is the tenant of the
        caller.
        """
        async with self.locks.setdefault(tenant, asyncio.Lock()):
            return await self._find(durable, wanted, ids, limit)

    async def _find(
        self, durable: Durable, wanted: JobFilter, ids: IdRange, limit: int
    ) -> Listing[tuple[str, Record]]:
        statuses = wanted.runtime_statuses
        if statuses is None:
            return Listing([], None)

        def select(job_id: str, instance: InstanceSnapshot) -> tuple[str, InstanceSnapshot] | None:
            if not JOB_ID.fullmatch(job_id):
                return None
            found = recorded_output(instance) or first_record_of(instance)
            if found is None or not wanted.may_match(instance, found):
                return None
            return job_id, instance

        page = await list_newest(durable, wanted.narrow(ids), statuses, limit, select)
        slots = asyncio.Semaphore(_READS_AT_ONCE)
        read = await asyncio.gather(*(self._read(slots, *pair) for pair in page.jobs))
        shown = [pair for pair in read if pair is not None and wanted.matches(pair[1])]
        return Listing(shown, page.below)

    async def _read(
        self, slots: asyncio.Semaphore, job_id: str, instance: InstanceSnapshot
    ) -> tuple[str, Record] | None:
        async with slots:
            found = await self.jobs.record_of(job_id, instance)
            if found is None:
                return None  # the orchestration runs no job
            return job_id, await self.progress.add_to(job_id, found)


def _code_of(record: Record) -> str | None:
    if record["status"] == JobStatus.CANCELLED:
        return CANCELLED_CODE
    error = record["error"]
    return None if error is None else str(error["code"])


def _is_match(wanted: str, label: str | None) -> bool:
    if label is None:
        return False
    if wanted.endswith(ANY_ENDING):
        return label.startswith(wanted.removesuffix(ANY_ENDING))
    return label == wanted
