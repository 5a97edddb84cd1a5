"""Keep tenants within their limits: how many jobs they have, and how long these use devices."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway import problems
from gateway.clock import Clock
from gateway.keys import owner_of
from gateway.problems import HttpProblem
from gateway.shares.places import HasEnded, Places
from gateway.shares.tenants import TenantLimits, TenantStore
from gateway.shares.usage import Usage
from gateway.storage.blobs import Blobs

_LEAST_RETRY_SECONDS: Final = 1
_LONGEST_RETRY_SECONDS: Final = 60
_UNKNOWN_RETRY_SECONDS: Final = 5


class Limits:
    """The limits of all tenants, and what they have used of them."""

    def __init__(self, blobs: Blobs, clock: Clock, has_ended: HasEnded) -> None:
        self.tenants = TenantStore(blobs, clock)
        self.usage = Usage(blobs, clock)
        self.places = Places(blobs, clock, has_ended)
        self._clock = clock

    async def take(self, tenant: str, jobs: Mapping[str, datetime]) -> None:
        """Count new jobs, given with their deadlines, against the limits of their tenant.

        Raises HttpProblem if a limit is exceeded, and Unavailable if a place was possibly not
        taken. Then none of the jobs may start.
        """
        owner, settings = await self._settings(tenant)
        if (refusal := await self._refuse_used_up(owner, settings)) is not None:
            raise refusal
        if (limit := settings.max_queued) is None:
            return
        taken = await self.places.take(owner, limit, jobs)
        if taken.count == len(jobs):
            return
        seconds = self._retry_seconds(owner, taken.used + len(jobs) - limit)
        raise HttpProblem(
            problems.QUEUE_LIMIT,
            f"the tenant has {taken.used} jobs that have not ended, and may have {limit}; try "
            f"again in {seconds} s",
            headers={"Retry-After": str(seconds)},
            limit=limit,
            used=taken.used,
            remaining=max(0, limit - taken.used),
        )

    async def take_some(self, tenant: str, jobs: Mapping[str, datetime]) -> int:
        """Do the same for as many of the first jobs as the limits allow; return their number."""
        owner, settings = await self._settings(tenant)
        if await self._refuse_used_up(owner, settings) is not None:
            return 0
        if settings.max_queued is None:
            return len(jobs)
        return (await self.places.take(owner, settings.max_queued, jobs, may_split=True)).count

    def drop(self, tenant: str, job_ids: Iterable[str]) -> None:
        """Free the places of jobs that were not started."""
        owner = owner_of(tenant)
        for job_id in job_ids:
            self._release(owner, job_id)

    def record_end(self, job_id: str, owner: str, model: str, device_seconds: float) -> None:
        """Count the end of a job, and free its place. `owner` is the digest of the tenant."""
        is_limited = self.tenants.settings_of(owner).gpu_seconds_a_day is not None
        self.usage.record(owner, model, device_seconds, is_limited=is_limited)
        self._release(owner, job_id)

    def _release(self, owner: str, job_id: str) -> None:
        limit = self.tenants.settings_of(owner).max_queued
        if limit is not None or not self.tenants.is_loaded:
            self.places.release(owner, job_id)

    async def _settings(self, tenant: str) -> tuple[str, TenantLimits]:
        await self.tenants.load()
        self.usage.note(tenant)
        owner = owner_of(tenant)
        return owner, self.tenants.settings_of(owner)

    async def _refuse_used_up(self, owner: str, settings: TenantLimits) -> HttpProblem | None:
        """Return the problem if the tenant has used its seconds of this day."""
        limit = settings.gpu_seconds_a_day
        if limit is None:
            return None
        await self.usage.load()
        used = self.usage.used_today(owner)
        if used < limit:
            return None
        seconds = _seconds_to_midnight(self._clock())
        return HttpProblem(
            problems.GPU_SECONDS_EXHAUSTED,
            f"the tenant has used {used:.1f} of {limit:g} seconds on devices today; the next day "
            f"of UTC begins in {seconds} s",
            headers={"Retry-After": str(seconds)},
            limit=limit,
            used=round(used, 3),
            remaining=0,
        )

    def _retry_seconds(self, owner: str, missing: int) -> int:
        """Return when so many jobs of a tenant have probably ended."""
        each_seconds = self.usage.seconds_per_job(owner)
        if each_seconds is None:
            return _UNKNOWN_RETRY_SECONDS
        seconds = math.ceil(missing * each_seconds)
        return max(_LEAST_RETRY_SECONDS, min(_LONGEST_RETRY_SECONDS, seconds))


def _seconds_to_midnight(now: datetime) -> int:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return math.ceil((midnight + timedelta(days=1) - now).total_seconds())
