"""The account of a model's tenants: whose job is next, weighted by measured device seconds.

It is start-time fair queuing (Goyal, Vin and Cheng, 1996). Each owner has a virtual time, which
advances by the device seconds of its jobs divided by its weight: by an estimate when a job is let
in, corrected when the job ends. The held job of the owner with the least virtual time is next.

The system's virtual time is that of the last owner whose job was let in. If no job is held, a job
that is sent directly advances it too. An owner never starts a job before the system's virtual time,
except by what its last jobs cost less than estimated. So it gets no credit for the time when it was
away, had few jobs, had reached its limit of running jobs, or had only jobs with low priority.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from contract.catalogue import Priority

DECAY: Final = 0.9
"""The factor by which the cost of a new job reduces the weight of older ones in the mean cost."""

FIRST_COST: Final = 0.01
"""The estimate in device seconds before any job of the model has ended."""


@dataclass(slots=True)
class _Owner:
    virtual_time: float
    weight: float = 1.0
    cost: float | None = None
    in_flight: int = 0
    held: Counter[Priority] = field(default_factory=Counter)
    refund: float = 0.0
    """How far the virtual time may be behind the system, as jobs cost less than estimated."""
    queued: dict[Priority, float] = field(default_factory=dict)
    """The virtual times of the owner's entries in the heaps. Other entries are not valid."""

    @property
    def is_active(self) -> bool:
        return self.in_flight > 0 or any(self.held.values())


class Account:
    """The virtual times of a model's tenants, by owner. It does no I/O, and reads no clock."""

    def __init__(self) -> None:
        self._owners: dict[str, _Owner] = {}
        self._cost: float | None = None
        self._queues: dict[Priority, list[tuple[float, str]]] = {each: [] for each in Priority}
        """Heaps of owners with held jobs. The virtual time of an entry may be too low."""
        self.system = 0.0
        """The virtual time at which the last job was let in."""
        self.held_count = 0

    def set_weight(self, owner: str, weight: float) -> None:
        """Set the weight of an owner, which is 1 at first."""
        self._of(owner).weight = weight

    def hold(self, owner: str, priority: Priority) -> None:
        """Add a held job."""
        known = self._of(owner)
        if not any(known.held.values()):
            known.refund = 0.0
            self._catch_up(known)
        known.held[priority] += 1
        self.held_count += 1
        self._queue(owner, known)

    def drop(self, owner: str, priority: Priority) -> None:
        """Remove a held job that is not let in."""
        self._owners[owner].held[priority] -= 1
        self.held_count -= 1

    def next(self, priority: Priority, may_run: Callable[[str], bool]) -> str | None:
        """Return whose job is let in next, of those that may run; None if there is none."""
        heap = self._queues[priority]
        passed: list[tuple[float, str]] = []
        found = None
        while heap and found is None:
            entry = virtual_time, owner = heap[0]
            known = self._owners[owner]
            if known.queued.get(priority) != virtual_time:
                heapq.heappop(heap)
            elif not known.held[priority]:
                heapq.heappop(heap)
                del known.queued[priority]
            elif known.virtual_time != virtual_time:
                heapq.heapreplace(heap, (known.virtual_time, owner))
                known.queued[priority] = known.virtual_time
            elif may_run(owner):
                found = owner
            else:
                passed.append(heapq.heappop(heap))
        for entry in passed:
            heapq.heappush(heap, entry)
        return found

    def let_in(self, owner: str, priority: Priority) -> float:
        """Move a held job into flight; return the estimate of its cost, which is charged."""
        known = self._owners[owner]
        self._catch_up(known)
        self.system = max(self.system, known.virtual_time)
        known.held[priority] -= 1
        self.held_count -= 1
        return self._charge(owner, known)

    def charge(self, owner: str) -> float:
        """Add a job that is sent directly; return the estimate of its cost, which is charged."""
        known = self._of(owner)
        self._catch_up(known)
        if not self.held_count:
            self.system = max(self.system, known.virtual_time)
        return self._charge(owner, known)

    def resume(self, owner: str) -> None:
        """Add a job in flight that was charged before."""
        self._of(owner).in_flight += 1

    def estimate(self, owner: str) -> float:
        """Return the estimated device seconds of an owner's next job."""
        known = self._owners.get(owner)
        cost = known.cost if known is not None and known.cost is not None else self._cost
        return FIRST_COST if cost is None else cost

    def end(self, owner: str, estimate: float, actual: float) -> None:
        """End a job in flight, and correct its charge. A job without a cost changes no mean."""
        known = self._of(owner)
        known.in_flight = max(0, known.in_flight - 1)
        if actual > 0:
            known.cost = _mean(known.cost, actual)
            self._cost = _mean(self._cost, actual)
        correction = (actual - estimate) / known.weight
        known.virtual_time += correction
        known.refund = max(0.0, known.refund - correction)
        self._queue(owner, known)

    def held(self, owner: str, priority: Priority | None = None) -> int:
        """Return how many jobs of an owner are held, with one priority or with any."""
        known = self._owners.get(owner)
        if known is None:
            return 0
        return known.held.total() if priority is None else known.held[priority]

    def owners(self) -> list[str]:
        """Return the owners that have jobs."""
        return [owner for owner, known in self._owners.items() if known.is_active]

    def in_flight(self, owner: str) -> int:
        """Return how many jobs of an owner are in flight."""
        known = self._owners.get(owner)
        return 0 if known is None else known.in_flight

    def lead(self, owner: str) -> float:
        """Return by how much the owner's virtual time is above the system's."""
        known = self._owners.get(owner)
        return 0.0 if known is None else max(0.0, known.virtual_time - self.system)

    def share(self, owner: str) -> float:
        """Return the owner's part of the weights of all owners that have jobs, and itself."""
        total = sum(each.weight for each in self._owners.values() if each.is_active)
        known = self._owners.get(owner)
        weight = 1.0 if known is None else known.weight
        return weight / (total if known is not None and known.is_active else total + weight)

    def relative_cost(self, owner: str) -> float:
        """Return how much longer an owner's job takes to come round than a mean job alone."""
        relative = self.estimate(owner) / self._cost if self._cost else 1.0
        return relative / self.share(owner)

    def ahead(self, owner: str, priority: Priority) -> float:
        """Return about how many held jobs are let in before the last one of an owner, or with it.

        While an owner's jobs come round, those of each other owner do so by its weight.
        """
        count, ahead = self.held(owner, priority), 0.0
        for each in self._owners.values() if count else ():
            ahead += min(each.held[priority], count * each.weight / self._owners[owner].weight)
            ahead += sum(each.held[higher] for higher in priority.higher)
        return ahead

    def to_json(self) -> dict[str, Any]:
        """Return the account as JSON, with the owners that have jobs or are ahead of the system."""
        return {
            "system": self.system,
            "cost": self._cost,
            "owners": {
                owner: [
                    *(each.virtual_time, each.weight, each.cost, each.in_flight),
                    *(each.held[priority] for priority in Priority),
                ]
                for owner, each in self._owners.items()
                if each.is_active or each.virtual_time > self.system
            },
        }

    @classmethod
    def from_json(cls, value: Any, *, has_jobs: bool = True) -> "Account":
        """Read an account. Without jobs, only the virtual times and the costs are read."""
        account = cls()
        if value is None:
            return account
        account.system, account._cost = value["system"], value["cost"]
        for owner, (virtual_time, weight, cost, in_flight, *held) in value["owners"].items():
            known = account._owners[owner] = _Owner(virtual_time, weight, cost)
            if has_jobs:
                known.in_flight = in_flight
                known.held.update(dict(zip(Priority, held, strict=True)))
                account.held_count += known.held.total()
                account._queue(owner, known)
        return account

    def _of(self, owner: str) -> _Owner:
        known = self._owners.get(owner)
        if known is None:
            known = self._owners[owner] = _Owner(self.system)
        return known

    def _catch_up(self, known: _Owner) -> None:
        known.virtual_time = max(known.virtual_time, self.system - known.refund)

    def _charge(self, owner: str, known: _Owner) -> float:
        estimate = self.estimate(owner)
        known.in_flight += 1
        known.virtual_time += estimate / known.weight
        known.refund = max(0.0, self.system - known.virtual_time)
        return estimate

    def _queue(self, owner: str, known: _Owner) -> None:
        """Ensure that the owner has an entry that is not too high in the heaps of its held jobs."""
        for priority, count in known.held.items():
            queued = known.queued.get(priority)
            if count and (queued is None or queued > known.virtual_time):
                heapq.heappush(self._queues[priority], (known.virtual_time, owner))
                known.queued[priority] = known.virtual_time


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else DECAY * mean + (1 - DECAY) * value
