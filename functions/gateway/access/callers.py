"""Who asks: the caller behind a request, what it may do, and whose jobs it sees."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.access.rates import Rate

OPEN_TENANT: Final = ""
"""Whose the jobs are that were accepted without keys, and those from before there were tenants."""


class Scope(StrEnum):
    """What a caller may do."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """One caller. `name` counts against the rate; `tenant` owns the jobs; no rate is no limit."""

    name: str
    tenant: str
    scopes: frozenset[Scope]
    rate: Rate | None = None


NOBODY_IN_PARTICULAR: Final = Caller("", OPEN_TENANT, frozenset(Scope))
"""Every caller of a gateway without keys, which is one on loopback."""

STRANGER: Final = Caller("", OPEN_TENANT, frozenset())
"""Whoever uses what is open to everybody, where others need a key."""
