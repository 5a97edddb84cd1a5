"""Kill components while several tenants submit more than the worker can run (`--tenants N`).

The tenants have different weights, and the last one may run only a few jobs at once. So most jobs
wait in the waiting room before they are in the queue. After the last kill the worker is suspended,
so that jobs are certainly held: some of them are cancelled and others reach their deadline, and
both must end within a second. At the end, the room must be empty.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from gateway.keys import Scope, make_key
from lab.storm.callers import StormCallers, UnexpectedResponse
from lab.storm.jobs import JobKind, KnownState, StormJob, StormSubmission, plan_jobs
from lab.storm.rig import Rig, RigOptions
from lab.storm.run import (
    Storm,
    in_background,
    read_all_again,
    submit_between_kills,
    wait_until_all_ended,
)

MAX_LATE_SECONDS = 1.0
_ADMIN = "admin"
_MAX_RUNNING = 4
_CALLERS = 32
# A caller whose job is held would otherwise wait until the next kill, and then submit it again.
_WAIT_SECONDS = 1
_MODEL_MS = {5: 30, 20: 100, 100: 300}
_FILLING_JOBS, _CANCELLED_JOBS, _EXPIRING_JOBS = 60, 20, 20
_DEADLINE_SECONDS = 10
_POLL_SECONDS, _SWEEP_SECONDS = 0.02, 0.5
_EMPTY_WITHIN_SECONDS = 30.0


@dataclass
class TenantJob(StormJob):
    """A job of a tenant, and whether it was seen in the waiting room."""

    authorization: str = field(default="", repr=False)
    tenant: str = ""
    deadline_seconds: int | None = None
    was_held: bool = False
    deadline: str = ""

    @property
    def headers(self) -> Mapping[str, str]:
        """The HTTP header with the tenant's API key."""
        return {"authorization": self.authorization}

    @property
    def may_expire(self) -> bool:
        """Whether the job has a deadline that it cannot meet."""
        return self.deadline_seconds is not None

    def submission(self, ran_path: Path, attempt: int) -> StormSubmission:
        """Return the request that submits the job in one attempt, from 1."""
        found = super().submission(ran_path, attempt)
        if self.deadline_seconds is None:
            return found
        return replace(found, path=f"{found.path}?deadline_seconds={self.deadline_seconds}")

    def see(self, job: dict[str, Any], known: KnownState, moment: str = "") -> None:
        """Record the state of the job, and whether it is held."""
        super().see(job, known, moment)
        self.was_held |= bool(job["queue"]["phase"] == "share")
        self.deadline = job["deadline"]


class TenantStorm:
    """The test, with its tenants and jobs."""

    def __init__(self, tenants: int, jobs: int, seed: int, cancel_share: float) -> None:
        self.names = [f"tenant-{number}" for number in range(1, tenants + 1)]
        self._keys: dict[str, str] = {}
        entries = []
        for name in [*self.names, _ADMIN]:
            scopes = list(Scope) if name == _ADMIN else [Scope.JOBS_READ, Scope.JOBS_WRITE]
            key, entry = make_key(name, name, scopes)
            self._keys[name] = f"Bearer {key}"
            entries.append(entry)
        self.options = RigOptions(
            # Jobs that expire while they are held would otherwise be refused.
            environment={"API_KEYS": json.dumps(entries), "ACCEPT_WHEN_SATURATED": "true"}
        )
        self._tenant_jobs = [
            self._make_job(job.number, job.kind, _MODEL_MS[job.model_ms])
            for job in plan_jobs(jobs, seed, cancel_share)
        ]

    @property
    def jobs(self) -> list[StormJob]:
        """All jobs so far."""
        return [*self._tenant_jobs]

    def _make_job(
        self, number: int, kind: JobKind, model_ms: int, deadline_seconds: int | None = None
    ) -> TenantJob:
        # The first tenant submits every second job, and its part of the others.
        half, rest = divmod(number, 2)
        name = self.names[0 if rest else half % len(self.names)]
        return TenantJob(
            number,
            kind,
            model_ms,
            authorization=self._keys[name],
            tenant=name,
            deadline_seconds=deadline_seconds,
        )

    async def run(self, rig: Rig, run: Storm) -> None:
        """Kill components while jobs are submitted; then end held jobs, and wait for all."""
        await rig.start("worker")
        run.say("every component is ready")
        for number, name in enumerate(self.names, 1):
            limit = {"max_running": _MAX_RUNNING} if name == self.names[-1] else {}
            await self._admin(rig, "PUT", f"/{name}", {"weight": number, **limit})
        async with StormCallers(
            rig.url, rig.ran_path, _CALLERS, wait_seconds=_WAIT_SECONDS
        ) as callers:
            queue: asyncio.Queue[StormJob] = asyncio.Queue()
            async with in_background(callers.submit_all(queue), callers.watch(run.jobs)):
                await submit_between_kills(rig, run, queue)
                self._note_held(run)
                await self._end_held_jobs(rig, run, callers)
                await wait_until_all_ended(run)
            await read_all_again(rig, run, callers)
            run.retries = callers.retries
        await self._check_room(rig, run)

    def _note_held(self, run: Storm) -> None:
        held = Counter(each.tenant for each in self._tenant_jobs if each.was_held)
        run.notes.append(f"{'seen in the waiting room':<25} {dict(sorted(held.items()))}")
        if not held:
            run.failures.append("no job was seen in the waiting room, so it was not tested")

    async def _end_held_jobs(self, rig: Rig, run: Storm, callers: StormCallers) -> None:
        """Cancel held jobs, and let others expire, while the worker is suspended."""
        for name, member in rig.members.items():
            if name != "worker":
                await member.wait_until_ready()
        with _suspended(rig, "worker"):
            for count in (_FILLING_JOBS, _CANCELLED_JOBS):
                await self._submit_more(run, callers, count)
            cancelled = self._tenant_jobs[-_CANCELLED_JOBS:]
            await asyncio.gather(*(callers.read(job) for job in cancelled))
            cancelled = [job for job in cancelled if job.was_held]
            late = {
                # One after the other: the time of a cancellation, and not of a burst of them.
                "cancelled": [await _cancel(job, callers) for job in cancelled],
            }
            expiring = await self._submit_more(run, callers, _EXPIRING_JOBS, _DEADLINE_SECONDS)
            await asyncio.gather(*(callers.read(job) for job in expiring))
            expiring = [job for job in expiring if job.was_held]
            late["expired"] = await asyncio.gather(*(_expire(job, callers) for job in expiring))
        for name, seconds in late.items():
            longest = max(seconds, default=0.0)
            run.notes.append(
                f"{f'held jobs {name}':<25} {len(seconds)}, within {longest:.2f} s at most"
            )
            if longest > MAX_LATE_SECONDS or len(seconds) < _CANCELLED_JOBS // 2:
                run.failures.append(
                    f"{len(seconds)} held jobs were {name} within {longest:.2f} s: expected "
                    f"{_CANCELLED_JOBS // 2} or more within {MAX_LATE_SECONDS:g} s"
                )

    async def _submit_more(
        self, run: Storm, callers: StormCallers, count: int, deadline_seconds: int | None = None
    ) -> "list[TenantJob]":
        """Submit jobs in addition to those of the plan, and return them."""
        begin = len(self._tenant_jobs)
        jobs = [
            self._make_job(begin + number, JobKind.ASYNC, 150, deadline_seconds)
            for number in range(count)
        ]
        self._tenant_jobs += jobs
        run.jobs += jobs
        await asyncio.gather(*(callers.submit(job) for job in jobs))
        return jobs

    async def _check_room(self, rig: Rig, run: Storm) -> None:
        """Check that no job is left in the waiting room."""
        held = await self._read_held(rig)
        ends_at = time.monotonic() + _EMPTY_WITHIN_SECONDS
        while any(held) and time.monotonic() < ends_at:
            await asyncio.sleep(_SWEEP_SECONDS)
            held = await self._read_held(rig)
        run.notes.append(f"{'left in the room':<25} {sum(held)}")
        if any(held):
            run.failures.append(f"{sum(held)} jobs are stuck in the waiting room")

    async def _read_held(self, rig: Rig) -> list[int]:
        tenants = (await self._admin(rig, "GET"))["tenants"]
        return [int(tenant["held"]) for tenant in tenants]

    async def _admin(
        self, rig: Rig, method: str, path: str = "", settings: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        headers = {"authorization": self._keys[_ADMIN]}
        async with httpx.AsyncClient(base_url=rig.url, timeout=60, trust_env=False) as client:
            found = await client.request(
                method, f"/v1/admin/tenants{path}", headers=headers, json=settings
            )
        if not found.is_success:
            raise UnexpectedResponse(f"{found.url}: {found.status_code} {found.text[:500]}")
        return dict(found.json())


@contextmanager
def _suspended(rig: Rig, name: str) -> Iterator[None]:
    """Suspend a component during the `with` block."""
    processes = rig.members[name].suspend(is_child=False)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def _cancel(job: TenantJob, callers: StormCallers) -> float:
    """Cancel a job, and return the seconds until it has ended."""
    job.kind = JobKind.CANCEL
    begun_at = time.monotonic()
    await callers.cancel(job)
    await _wait_for_end(job, callers)
    return time.monotonic() - begun_at


async def _expire(job: TenantJob, callers: StormCallers) -> float:
    """Wait until a job has ended, and return how many seconds this was after its deadline."""
    deadline = datetime.fromisoformat(job.deadline)
    await asyncio.sleep((deadline - datetime.now(UTC)).total_seconds())
    await _wait_for_end(job, callers)
    return (datetime.now(UTC) - deadline).total_seconds()


async def _wait_for_end(job: TenantJob, callers: StormCallers) -> None:
    ends_at = time.monotonic() + _EMPTY_WITHIN_SECONDS
    while job.final is None and time.monotonic() < ends_at:
        await asyncio.sleep(_POLL_SECONDS)
        await callers.read(job)
