"""The places of jobs that have not ended, for the tenants that may have only so many.

A blob for each of these tenants, its ledger, has the ids of the jobs. It is written with If-Match,
so the limit is exact over all instances of the app. Calls at the same time share a write.

A place becomes free at the end of the job. This may be lost if a process is killed, so a place is
also free after the job's deadline, and before a call is refused, the oldest jobs are looked up.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.storage.blobs import Blobs

PLACES: Final = "places/"
"""The prefix of the ledgers, whose names end with the digest of the tenant's name."""

GATHER_SECONDS: Final = 0.1
"""How long the end of a job waits for others, to be written by the same request."""

LOOKED_UP_AFTER: Final = timedelta(seconds=60)
"""How old a place must be before its job is looked up: the job may not have been started."""

LOOK_UPS: Final = 16
LOOKS_EVERY: Final = timedelta(seconds=1)
"""How many jobs of a tenant are looked up at once, and how often."""

_GRACE_SECONDS: Final = 10
_ATTEMPTS: Final = 50
_LONGEST_PAUSE_SECONDS: Final = 0.05
# At most a sixth of the time of the event loop is spent on encoding a large ledger.
_PAUSE_SHARE: Final = 5

_log = logging.getLogger(__name__)

HasEnded = Callable[[str], Awaitable[bool]]
"""Returns whether a job has ended. May raise Unavailable."""


@dataclass(frozen=True, slots=True)
class Taken:
    """For how many of the jobs a place was taken, and how many places are in use."""

    count: int
    used: int


@dataclass(slots=True)
class _Take:
    """A call that waits for its places."""

    jobs: dict[str, int]
    """The deadline of each job, in seconds since 1970."""
    limit: int
    may_split: bool
    result: "asyncio.Future[Taken]"


Entries = dict[str, tuple[int, int]]
"""By job, since when it has a place, and its deadline, in seconds since 1970."""


@dataclass(slots=True)
class _Ledger:
    """What this process knows of a tenant's ledger. Without an ETag, the blob does not exist."""

    entries: Entries = field(default_factory=dict)
    etag: str | None = None
    is_known: bool = False
    takes: list[_Take] = field(default_factory=list)
    released: set[str] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None
    looked_at: datetime | None = None
    looked_up: int = 0
    """How many of the oldest jobs were looked up, before it begins again."""


class Places:
    """Takes places for jobs, and frees them."""

    def __init__(self, blobs: Blobs, clock: Clock, has_ended: HasEnded) -> None:
        self._blobs = blobs
        self._clock = clock
        self._has_ended = has_ended
        self._ledgers: dict[str, _Ledger] = {}

    async def take(
        self, owner: str, limit: int, jobs: Mapping[str, datetime], *, may_split: bool = False
    ) -> Taken:
        """Take a place for each of these jobs, given with their deadlines, or for none.

        With `may_split`, takes as many as there are, for the first jobs. A job that has a place
        gets no second one. Raises Unavailable if the places were possibly not taken.
        """
        ledger = self._ledgers.setdefault(owner, _Ledger())
        deadlines = {job_id: int(deadline.timestamp()) for job_id, deadline in jobs.items()}
        result: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        ledger.takes.append(_Take(deadlines, limit, may_split, result))
        ledger.released.difference_update(jobs)
        self._start(owner, ledger)
        return await result

    def release(self, owner: str, job_id: str) -> None:
        """Free the place of a job, if it has one, soon."""
        ledger = self._ledgers.setdefault(owner, _Ledger())
        ledger.released.add(job_id)
        self._start(owner, ledger)

    def _start(self, owner: str, ledger: _Ledger) -> None:
        if ledger.task is None:
            loop = asyncio.get_running_loop()
            ledger.task = loop.create_task(self._run(owner, ledger), context=Context())

    async def _run(self, owner: str, ledger: _Ledger) -> None:
        """Write the ledger until no call waits, or a write fails."""
        try:
            while ledger.takes or ledger.released:
                if not ledger.takes:
                    await asyncio.sleep(GATHER_SECONDS)
                await asyncio.sleep(_PAUSE_SHARE * await self._serve(owner, ledger))
        except Unavailable as error:
            _log.warning("the places of the tenant %s cannot be written: %s", owner, error)
        finally:
            ledger.task = None
            if ledger.takes:
                self._start(owner, ledger)

    async def _serve(self, owner: str, ledger: _Ledger) -> float:
        """Serve the calls that wait now; return how long their ledger took to encode."""
        takes = [take for take in ledger.takes if not take.result.done()]
        released, ledger.takes, ledger.released = ledger.released, [], set()
        try:
            return await self._write(owner, ledger, takes, released)
        except BaseException as error:
            ledger.is_known = False
            ledger.released |= released
            reason = error if isinstance(error, Unavailable) else Unavailable("blobs", repr(error))
            for take in takes:
                if not take.result.done():
                    take.result.set_exception(reason)
            raise

    async def _write(
        self, owner: str, ledger: _Ledger, takes: list[_Take], released: set[str]
    ) -> float:
        """Take and free places in the blob, and answer the calls."""
        blob, is_fresh = f"{PLACES}{owner}", False
        for attempt in range(_ATTEMPTS):
            if not ledger.is_known:
                await self._read(blob, ledger)
                is_fresh = True
            now, begun_at = self._clock(), time.perf_counter()
            entries = {
                job_id: entry
                for job_id, entry in ledger.entries.items()
                if job_id not in released and entry[1] + _GRACE_SECONDS > now.timestamp()
            }
            found = [_take(entries, each, int(now.timestamp())) for each in takes]
            is_full = any(
                taken.count < len(take.jobs) for taken, take in zip(found, takes, strict=True)
            )
            if not is_fresh and (is_full or not released <= ledger.entries.keys()):
                ledger.is_known = False  # another instance may have written it
                continue
            if is_full and (ended := await self._find_ended(ledger, now)):
                released |= ended
                continue
            data = json.dumps(entries, separators=(",", ":")).encode()
            spent_seconds = time.perf_counter() - begun_at
            if entries != ledger.entries:
                if ledger.etag is None:
                    etag = await self._blobs.create(blob, data)
                else:
                    etag = await self._blobs.replace(blob, data, ledger.etag)
                if etag is None:
                    ledger.is_known = is_fresh = False
                    pause_seconds = min(_LONGEST_PAUSE_SECONDS, 0.002 * 2 ** min(attempt, 6))
                    await asyncio.sleep(random.uniform(0, pause_seconds))  # noqa: S311 - no secret
                    continue
                ledger.entries, ledger.etag = entries, etag
            for taken, take in zip(found, takes, strict=True):
                if not take.result.done():
                    take.result.set_result(taken)
            return spent_seconds
        raise Unavailable("blobs", f"{blob} was changed by others at the same time")

    async def _read(self, blob: str, ledger: _Ledger) -> None:
        found = await self._blobs.read(blob)
        try:
            value = {} if found is None else json.loads(found.data)
            ledger.entries = {
                job_id: (int(since), int(deadline)) for job_id, (since, deadline) in value.items()
            }
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise Unavailable("blobs", f"{blob} is malformed: {error!r}") from None
        ledger.etag = None if found is None else found.etag
        ledger.is_known = True

    async def _find_ended(self, ledger: _Ledger, now: datetime) -> set[str]:
        """Look up some of the oldest jobs, and return those that have ended."""
        if ledger.looked_at is not None and abs(now - ledger.looked_at) < LOOKS_EVERY:
            return set()
        ledger.looked_at = now
        before = (now - LOOKED_UP_AFTER).timestamp()
        old = [job_id for job_id, (since, _) in ledger.entries.items() if since <= before]
        if ledger.looked_up >= len(old):
            ledger.looked_up = 0
        chosen = old[ledger.looked_up :][:LOOK_UPS]
        ended = await asyncio.gather(*map(self._has_ended, chosen), return_exceptions=True)
        found = {job_id for job_id, is_ended in zip(chosen, ended, strict=True) if is_ended is True}
        ledger.looked_up += len(chosen) - len(found)
        return found


def _take(entries: Entries, take: _Take, now_seconds: int) -> Taken:
    """Take places in `entries`, and return for how many of the jobs it has."""
    missing = sum(job_id not in entries for job_id in take.jobs)
    if missing > take.limit - len(entries) and not take.may_split:
        return Taken(0, len(entries))
    count = 0
    for job_id, deadline in take.jobs.items():
        if job_id not in entries:
            if len(entries) >= take.limit:
                break
            entries[job_id] = now_seconds, deadline
        count += 1
    return Taken(count, len(entries))
