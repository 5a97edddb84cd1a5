"""Who may load, and who must yield. Pure functions of everybody's claims, so all come to the same.

    out ──reserved──▶ entering ──loaded──▶ in ──another waits──▶ leaving ──unloaded──▶ out

A model that waits and is loaded in no process of this device is *without a place*. Those go in by
the time they have waited, and none goes past the first, or a large one would wait for ever while
small ones come and go. Nobody yields for a model that has a place already.
"""

from collections.abc import Iterable, Mapping

from worker.memory.ledger import Claim

Claims = Mapping[str, Claim]
"""By name of the page; names order those that waited equally long."""


def reserved_bytes(claims: Iterable[Claim]) -> int:
    """What is reserved in all."""
    return sum(claim.reserved_bytes for claim in claims)


def may_enter(name: str, needed_bytes: int, claims: Claims, total_bytes: int) -> bool:
    """Whether this one may reserve so much now."""
    if needed_bytes > total_bytes - reserved_bytes(claims.values()):
        return False
    ahead = without_place(claims, total_bytes)
    return not ahead or ahead[0] == name


def must_leave(name: str, claims: Claims, total_bytes: int, now: float) -> bool:
    """Whether this one is to yield: it is idle or has had its turn, and its memory is needed.

    Those whose turn ends first yield first, the idle before all, and no more than needed.
    """
    ahead = without_place(claims, total_bytes)
    if not ahead:
        return False
    staying = {at: claim for at, claim in claims.items() if not claim.is_leaving}
    needed_bytes = claims[ahead[0]].waiting_bytes
    missing_bytes = needed_bytes - total_bytes + reserved_bytes(staying.values())
    yielding = []
    for at in sorted(staying, key=lambda at: (_turn_ends_at(staying[at]), at)):
        if missing_bytes <= 0:
            break
        yielding.append(at)
        missing_bytes -= staying[at].reserved_bytes
    if name not in yielding:
        return False
    # All at once, since it helps nobody when the first goes: but who is idle loses nothing.
    return staying[name].is_idle or all(_turn_ends_at(staying[at]) <= now for at in yielding)


def without_place(claims: Claims, total_bytes: int) -> list[str]:
    """Who waits while its model is loaded nowhere on this device, the longest first."""
    placed = {
        claim.model for claim in claims.values() if claim.reserved_bytes and not claim.is_leaving
    }
    waiting = [
        (claim.waiting_since, name)
        for name, claim in claims.items()
        if claim.waiting_since is not None
        and claim.model not in placed
        and claim.waiting_bytes <= total_bytes
    ]
    return [name for _, name in sorted(waiting)]


def _turn_ends_at(claim: Claim) -> float:
    if not claim.reserved_bytes or claim.turn_ends_at is None:
        return float("inf")
    return float("-inf") if claim.is_idle else claim.turn_ends_at
