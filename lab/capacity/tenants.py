"""Predict the shares and the waits of tenants that submit jobs of one model to warm workers.

The order is that of the gateway's own account and window. Not simulated: the times of requests, of
storage and of Service Bus, and several processes of the gateway.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Final

from contract.catalogue import Priority
from gateway.shares.account import Account
from gateway.shares.leader import READ_SECONDS, SAVE_SECONDS, SHARED_READ_SECONDS
from gateway.shares.room import AHEAD, GRACE
from gateway.shares.watch import WATCH_SECONDS
from gateway.shares.window import window
from lab.capacity.clock import SimulationClock
from lab.capacity.load import MAX_JOBS
from lab.capacity.nodes import BatchTimes
from lab.capacity.prices import Prices
from lab.capacity.simulation import percentiles

_NORMAL: Final = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """The jobs of one tenant.

    ``burst`` jobs arrive at once at ``start_seconds``, and ``jobs_per_second`` from then on, at
    random times. A job's part of a batch takes ``cost`` times as long as the batch times say.

    Raises:
        ValueError: A number is out of range.
    """

    name: str
    weight: float = 1.0
    jobs_per_second: float = 0.0
    burst: int = 0
    start_seconds: float = 0.0
    cost: float = 1.0
    max_running: int | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.weight <= 1000 or self.cost <= 0:
            raise ValueError(
                f"tenant {self.name}: expected a weight from 0.01 to 1000 and a cost above 0, "
                f"found {self.weight:g} and {self.cost:g}"
            )
        least = min(self.jobs_per_second, self.burst, self.start_seconds)
        if least < 0 or self.max_running == 0:
            raise ValueError(f"tenant {self.name}: a number is too small")

    def arrivals(self, duration_seconds: float, seed: int) -> list[float]:
        """Return when the jobs arrive, in seconds after the start of the simulation."""
        found = [self.start_seconds] * self.burst
        chance = random.Random(f"{seed} {self.name}")
        now = self.start_seconds
        while self.jobs_per_second:
            now += chance.expovariate(self.jobs_per_second)
            if now >= duration_seconds:
                break
            found.append(now)
        return found

    @classmethod
    def parse(cls, text: str) -> "TenantLoad":
        """Return the load that ``NAME:KEY=VALUE,…`` describes; the keys are those of ``KEYS``.

        Raises:
            ValueError: The text has another format, or a number is out of range.
        """
        name, _, options = text.partition(":")
        given: dict[str, Any] = {}
        for option in options.split(",") if options else ():
            key, _, value = option.partition("=")
            if key not in KEYS:
                raise ValueError(f"tenant {name}: expected one of {', '.join(KEYS)}, found {key!r}")
            member, kind = KEYS[key]
            try:
                given[member] = kind(value)
            except ValueError:
                raise ValueError(
                    f"tenant {name}: {key}: expected a number, found {value!r}"
                ) from None
        return cls(name, **given)


KEYS: Final[dict[str, tuple[str, type[int] | type[float]]]] = {
    "weight": ("weight", float),
    "rate": ("jobs_per_second", float),
    "burst": ("burst", int),
    "from": ("start_seconds", float),
    "cost": ("cost", float),
    "running": ("max_running", int),
}


@dataclass(slots=True)
class TenantResult:
    """What one tenant got. The waits are from the arrivals of jobs to the starts of batches."""

    jobs: int = 0
    device_seconds: float = 0.0
    peak_held: int = 0
    wait_seconds: list[float] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            "jobs": self.jobs,
            "started": len(self.wait_seconds),
            "device_seconds": round(self.device_seconds, 3),
            "peak_held": self.peak_held,
            "wait_seconds": percentiles(self.wait_seconds),
        }


@dataclass(slots=True)
class _Job:
    tenant: TenantLoad
    arrived_at: float
    estimate: float = 0.0


def simulate_tenants(  # noqa: PLR0913 - what the result depends on
    tenants: Sequence[TenantLoad],
    times: BatchTimes,
    *,
    workers: int = 1,
    duration_seconds: float = 300.0,
    seed: int = 1,
    has_shares: bool = True,
) -> dict[str, TenantResult]:
    """Return what each tenant gets, with fair shares or with one queue for all.

    Raises:
        ValueError: Two tenants have the same name, there is no worker, or there are too many jobs.
    """
    if len({each.name for each in tenants}) < len(tenants) or workers < 1:
        raise ValueError("expected at least one worker, and tenants with different names")
    jobs = sum(each.burst + each.jobs_per_second * duration_seconds for each in tenants)
    if jobs > MAX_JOBS:
        raise ValueError(f"jobs: expected at most {MAX_JOBS:,}, found {jobs:,.0f}")
    simulation = _Simulation(tenants, times, workers, has_shares=has_shares)
    for tenant in tenants:
        for at in tenant.arrivals(duration_seconds, seed):
            simulation.schedule(_Job(tenant, at))
    return simulation.run(duration_seconds)


@dataclass(frozen=True, slots=True)
class RoomUse:
    """The requests to blob storage of an open waiting room in a second."""

    writes: float
    reads: float

    def hourly_cost(self, prices: Prices) -> float:
        """Return the price of an hour."""
        return 0.36 * (
            self.writes * (prices.price("storage.ten_thousand_writes").amount or 0.0)
            + self.reads * (prices.price("storage.ten_thousand_reads").amount or 0.0)
        )


#: A log of a minute is read from AHEAD before the minute until GRACE after it.
LOGS_READ = 2 * (1 + (GRACE + AHEAD) / timedelta(minutes=1))


def compute_room_use(instances: int) -> RoomUse:
    """Return what an open room needs besides the appends and reads of each job.

    The leader saves its state, and reads the logs of entries and ends: more often while other
    instances append to them. Each other instance reads the state.
    """
    pause = READ_SECONDS if instances == 1 else SHARED_READ_SECONDS
    return RoomUse(1 / SAVE_SECONDS, LOGS_READ / pause + (instances - 1) / WATCH_SECONDS)


class _Simulation:
    def __init__(
        self, tenants: Sequence[TenantLoad], times: BatchTimes, workers: int, *, has_shares: bool
    ) -> None:
        self._times = times
        self._has_shares = has_shares
        self._clock = SimulationClock()
        self._account = Account()
        self._loads = {each.name: each for each in tenants}
        self._held: dict[str, deque[_Job]] = {each.name: deque() for each in tenants}
        self._queue: deque[_Job] = deque()
        self._in_flight = 0
        self._idle = workers
        each = times.seconds(times.batch_size) / times.batch_size / workers
        self._window = window(times.batch_size, _NORMAL, workers, each)
        self._results = {each.name: TenantResult() for each in tenants}
        for tenant in tenants:
            self._account.set_weight(tenant.name, tenant.weight)

    def schedule(self, job: _Job) -> None:
        self._clock.at(job.arrived_at, partial(self._submit, job))

    def run(self, duration_seconds: float) -> dict[str, TenantResult]:
        self._clock.run(duration_seconds)
        return self._results

    def _submit(self, job: _Job) -> None:
        name = job.tenant.name
        result = self._results[name]
        result.jobs += 1
        if self._has_shares and self._must_hold(job.tenant):
            self._account.hold(name, _NORMAL)
            self._held[name].append(job)
            self._let_in()
            result.peak_held = max(result.peak_held, len(self._held[name]))
        else:
            job.estimate = self._account.charge(name)
            self._send(job)
        self._start_batches()

    def _must_hold(self, tenant: TenantLoad) -> bool:
        """Decide as `gateway.shares.gate` does."""
        account, name = self._account, tenant.name
        if tenant.max_running is not None:
            return True
        if not account.held_count:
            return self._in_flight >= self._window
        if account.held(name) or self._in_flight >= 2 * self._window:
            return True
        if account.in_flight(name) >= max(1.0, account.share(name) * self._window):
            return True
        batch = self._times.batch_size * account.estimate(name)
        return account.lead(name) > batch / tenant.weight

    def _let_in(self) -> None:
        while self._in_flight < self._window:
            name = self._account.next(_NORMAL, self._may_run)
            if name is None:
                return
            job = self._held[name].popleft()
            job.estimate = self._account.let_in(name, _NORMAL)
            self._send(job)

    def _may_run(self, name: str) -> bool:
        limit = self._loads[name].max_running
        return limit is None or self._account.in_flight(name) < limit

    def _send(self, job: _Job) -> None:
        self._in_flight += 1
        self._queue.append(job)

    def _start_batches(self) -> None:
        while self._idle and self._queue:
            size = min(len(self._queue), self._times.batch_size)
            batch = [self._queue.popleft() for _ in range(size)]
            cost = sum(job.tenant.cost for job in batch) / size
            seconds = self._times.seconds(size) * cost
            self._idle -= 1
            for job in batch:
                waited = self._clock.now_seconds - job.arrived_at
                self._results[job.tenant.name].wait_seconds.append(waited)
            self._clock.after(seconds, partial(self._end, batch, seconds))

    def _end(self, batch: list[_Job], seconds: float) -> None:
        self._idle += 1
        self._in_flight -= len(batch)
        for job in batch:
            # A reply says the batch's time and size, so each job has an equal part.
            each = seconds / len(batch)
            self._results[job.tenant.name].device_seconds += each
            self._account.end(job.tenant.name, job.estimate, each)
        self._let_in()
        self._start_batches()
