"""What operators see of tenants: their settings, their jobs, and what these have used."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Final, cast

from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import Catalogue
from gateway.clock import Clock
from gateway.keys import owner_of
from gateway.shares.account import Account
from gateway.shares.limits import Limits
from gateway.shares.room import Room, RoomState
from gateway.shares.tenants import Fields, TenantLimits
from gateway.shares.usage import TenantUsage
from gateway.storage.blobs import Blobs

MAX_SHOWN: Final = 50
"""How many tenants the overview and the metrics have: those that have used most today."""

NO_NAME: Final = "~"
"""Stands for the tenant of a gateway without API keys, whose name is empty."""

OTHER: Final = "other"
"""The label of all other tenants in the metrics."""


class ShownSettings(TypedDict):
    """The weight and the limits that apply to a tenant. A limit that is null does not exist."""

    weight: float
    max_queued: Annotated[
        int | None, Field(description="How many jobs may exist that have not ended.")
    ]
    max_running: Annotated[
        int | None, Field(description="How many jobs may be in a model's queue or run.")
    ]
    gpu_seconds_a_day: Annotated[
        float | None, Field(description="Seconds on devices in a day of UTC.")
    ]


class GivenSettings(TypedDict, total=False):
    """The members that were given for a tenant. The others are those of the tenant `*`."""

    weight: float
    max_queued: int | None
    max_running: int | None
    gpu_seconds_a_day: float | None


class ShownFigures(TypedDict):
    """A tenant's jobs that have not ended, and what its jobs have used.

    While a model's queue is short, no job is held, and the other figures of jobs are null.
    """

    share: Annotated[
        float | None,
        Field(description="Of the device time now, from 0 to 1; a mean over the models in use."),
    ]
    waiting: Annotated[int | None, Field(description="Held jobs, and jobs in the queue.")]
    held: Annotated[int, Field(description="Jobs in the waiting room.")]
    running: Annotated[int | None, Field(description="Jobs at workers.")]
    gpu_seconds_hour: Annotated[
        float, Field(description="Seconds on devices in the last 60 minutes.")
    ]
    gpu_seconds_day: Annotated[float, Field(description="Seconds on devices since midnight UTC.")]


class ShownTenant(ShownFigures):
    """A tenant, its settings, and the figures of all its models together."""

    tenant: Annotated[
        str,
        Field(
            description="The tenant's name; `*` has the settings for all tenants. Empty without "
            "API keys. The first 16 hexadecimal digits of the name's SHA-256 if it is unknown."
        ),
    ]
    settings: ShownSettings
    given: GivenSettings | None
    models: dict[str, ShownFigures]


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """A tenant's jobs of one model, or of all, and their seconds on devices; None if unknown."""

    share: float | None = None
    waiting: int | None = None
    held: int = 0
    running: int | None = None
    hour_seconds: float = 0.0
    day_seconds: float = 0.0

    def document(self) -> ShownFigures:
        """Return the figures as JSON."""
        return {
            "share": None if self.share is None else round(self.share, 4),
            "waiting": self.waiting,
            "held": self.held,
            "running": self.running,
            "gpu_seconds_hour": round(self.hour_seconds, 3),
            "gpu_seconds_day": round(self.day_seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class SeenTenant:
    """A tenant: its settings, the given ones, and its figures by model."""

    name: str
    settings: TenantLimits
    given: Fields | None
    models: Mapping[str, TenantFigures] = field(default_factory=dict)

    @property
    def total(self) -> TenantFigures:
        """The figures of all models together."""
        return add_figures(self.models.values())

    def document(self) -> ShownTenant:
        """Return the tenant as JSON."""
        return {
            "tenant": self.name,
            "settings": cast("ShownSettings", asdict(self.settings)),
            "given": cast("GivenSettings | None", self.given),
            **self.total.document(),
            "models": {model: each.document() for model, each in sorted(self.models.items())},
        }


def add_figures(figures: Iterable[TenantFigures]) -> TenantFigures:
    """Return sums, and the mean share. A number is None if each of its parts is."""
    found = list(figures)
    shares = [each.share for each in found if each.share is not None]
    return TenantFigures(
        share=sum(shares) / len(shares) if shares else None,
        waiting=_add_known(each.waiting for each in found),
        held=sum(each.held for each in found),
        running=_add_known(each.running for each in found),
        hour_seconds=sum(each.hour_seconds for each in found),
        day_seconds=sum(each.day_seconds for each in found),
    )


def most_used(tenants: Iterable[SeenTenant]) -> list[SeenTenant]:
    """Return the tenants that have used most today, or in the last hour, and have most jobs."""

    def rank(tenant: SeenTenant) -> tuple[float, int, str]:
        total = tenant.total
        used_seconds = max(total.hour_seconds, total.day_seconds)
        return -used_seconds, -(total.waiting or 0), tenant.name

    return sorted(tenants, key=rank)


class Tenants:
    """Reads what is known about all tenants."""

    def __init__(self, catalogue: Catalogue, blobs: Blobs, limits: Limits, clock: Clock) -> None:
        self._rooms = {name: Room(name, blobs, clock) for name in catalogue}
        self._limits = limits

    async def read_rooms(self) -> dict[str, RoomState]:
        """Return the states of the models' open waiting rooms. Raises Unavailable."""
        found = await asyncio.gather(*(room.read_state() for room in self._rooms.values()))
        pairs = zip(self._rooms, found, strict=True)
        return {name: each[0] for name, each in pairs if each is not None and each[0].is_open}

    async def read(
        self, rooms: Mapping[str, RoomState], running: Mapping[str, int | None]
    ) -> list[SeenTenant]:
        """Return the tenants that have settings, jobs in a room, or had jobs in the last day.

        `running` has the numbers of jobs at workers, by model. Raises Unavailable.
        """
        limits = self._limits
        given, usage = await asyncio.gather(limits.tenants.read_all(), limits.usage.summarize())
        names = {owner_of(name): name for name in given}
        models: dict[str, dict[str, TenantFigures]] = {owner: {} for owner in (*names, *usage)}
        for model, state in rooms.items():
            for owner, jobs in self._jobs_in(state, running.get(model)).items():
                models.setdefault(owner, {})[model] = jobs
        for owner, used in usage.items():
            for model, each in used.models.items():
                jobs = models[owner].get(model, TenantFigures())
                models[owner][model] = _with_usage(jobs, each)
        return [
            SeenTenant(name, limits.tenants.settings_of(owner), given.get(name), figures)
            for owner, figures in models.items()
            for name in [names.get(owner) or self._name(owner)]
        ]

    async def describe(self, name: str, models: Mapping[str, TenantFigures]) -> SeenTenant:
        """Return a tenant with its current settings. Raises Unavailable."""
        given = (await self._limits.tenants.read_all()).get(name)
        return SeenTenant(name, self._limits.tenants.settings(name), given, models)

    def _jobs_in(self, state: RoomState, running: int | None) -> dict[str, TenantFigures]:
        """Return each owner's jobs in an open room, in the queue and at workers.

        A queue is first in, first out, so the first `running` jobs in flight are at workers.
        """
        account = Account.from_json(state.account)
        in_flight = sorted(state.in_flight.values(), key=lambda each: each.since)
        all_counts = Counter(each.owner for each in in_flight)
        at_workers = Counter(each.owner for each in in_flight[: running or 0])
        # The jobs that were in the queue when the room was opened have no known owner.
        owners = {*account.owners(), *all_counts} - {""}
        # The leader's weight of an owner is as old as its last job that was let in.
        weights = {owner: self._limits.tenants.settings_of(owner).weight for owner in owners}
        total = sum(weights.values())
        return {
            owner: TenantFigures(
                share=weight / total,
                waiting=account.held(owner) + all_counts[owner] - at_workers[owner],
                held=account.held(owner),
                running=None if running is None else at_workers[owner],
            )
            for owner, weight in weights.items()
        }

    def _name(self, owner: str) -> str:
        name = self._limits.usage.name(owner)
        return owner if name is None else name


def held_count(state: RoomState | None) -> int:
    """Return how many jobs an open waiting room holds."""
    return 0 if state is None else Account.from_json(state.account).held_count


def _with_usage(jobs: TenantFigures, used: TenantUsage) -> TenantFigures:
    return TenantFigures(
        *(jobs.share, jobs.waiting, jobs.held, jobs.running),
        *(used.hour_seconds, used.day_seconds),
    )


def _add_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
