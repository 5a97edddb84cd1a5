"""Divide the webhook attempts of one process among tenants and their receivers.

Durable Functions runs a limited number of activities at the same time (host.json), and an attempt
occupies one of them until the receiver responds. Without shares, receivers that never respond would
delay the webhooks of all tenants.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

MAX_ATTEMPTS: Final = 48
"""How many attempts run at once: less than `maxConcurrentActivityFunctions` in host.json."""

LONGEST_REFUSAL_SECONDS: Final = 300.0

_MAX_SHARES: Final = 2_000
_FIRST_ESTIMATE_SECONDS: Final = 1.0
_WEIGHT_OF_NEW: Final = 0.2


@dataclass(slots=True)
class _Share:
    """The attempts of one tenant or receiver.

    `free_at` is when the last refused one comes again.
    """

    running: int = 0
    mean_seconds: float = _FIRST_ESTIMATE_SECONDS
    free_at: float = 0.0

    def reserve(self, now: float) -> float:
        """Return in how many seconds a refused attempt should come again.

        Refused attempts come again one by one, at the rate at which attempts end.
        """
        interval_seconds = self.mean_seconds / max(1, self.running)
        self.free_at = max(now, self.free_at) + interval_seconds
        return min(LONGEST_REFUSAL_SECONDS, self.free_at - now)


class AttemptShares:
    """Decides whether a webhook attempt may begin.

    A tenant may begin an attempt if fewer of its attempts are running than places are free. The
    same rule applies to a receiver within the places that are left for its tenant. So a tenant
    alone gets up to half of the places, n busy tenants get equal shares, and one place always stays
    free.
    """

    def __init__(self, limit: int = MAX_ATTEMPTS) -> None:
        self._limit = limit
        self._shares: dict[Hashable, _Share] = {}

    def start(self, tenant: str, receiver: str, now: float) -> float | None:
        """Begin an attempt, and return None, or return in how many seconds to try again.

        `receiver` is the host and port of the URL, and `now` the current time in seconds.
        """
        if len(self._shares) > _MAX_SHARES:
            kept = self._shares.items()
            self._shares = {key: each for key, each in kept if each.running or each.free_at > now}
        free = self._limit
        shares = self._of(tenant, receiver)
        for share in shares:
            if share.running >= free:
                return share.reserve(now)
            free -= share.running
        for share in shares:
            share.running += 1
        return None

    def end(self, tenant: str, receiver: str, seconds: float) -> None:
        """End an attempt that took `seconds`."""
        for share in self._of(tenant, receiver):
            share.running -= 1
            share.mean_seconds += _WEIGHT_OF_NEW * (seconds - share.mean_seconds)

    def _of(self, tenant: str, receiver: str) -> list[_Share]:
        """Return the shares of all tenants together, of this tenant, and of this receiver."""
        keys: tuple[Hashable, ...] = ((), (tenant,), (tenant, receiver))
        return [self._shares.setdefault(key, _Share()) for key in keys]
