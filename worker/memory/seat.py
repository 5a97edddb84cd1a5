"""One model's place on the device in one process: its stage, and the claim that goes with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.memory.admission import may_enter, must_leave, reserved_bytes
from worker.memory.ledger import Claim

# A model that takes long to load stays so much longer: loading costs a fifth of the time at most.
_LOADS_A_TURN = 4.0
# A model whose size nobody knows makes do with what is free, unless that is next to nothing.
_WORTH_TRYING = 1 / 8


class Stage(StrEnum):
    """Where a model is: see `admission`."""

    OUT = "out"
    ENTERING = "entering"
    IN = "in"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is true of a model now.

    `pending_since` is since when its oldest message waits, None where nothing waits; `is_idle`
    tells that it has nothing in hand and was sent nothing lately.
    """

    pending_since: float | None
    is_idle: bool


class Seat:
    """Pure: time and claims are arguments. Whoever turns it writes the claim into the ledger."""

    def __init__(
        self, model: str, total_bytes: int, turn_seconds: float, needed_bytes: int | None
    ) -> None:
        """`needed_bytes` is what to reserve before loading; None where that is not known."""
        self._model = model
        self._total_bytes = total_bytes
        self._turn_seconds = turn_seconds
        self._needed_bytes = needed_bytes
        self._served_until: float | None = None
        self._not_before = float("-inf")
        self.stage = Stage.OUT

    def turn(self, now: float, name: str, claims: Mapping[str, Claim], facts: Facts) -> Claim:
        """Take the next step, if one is due; returns the claim as it now is."""
        mine = claims[name]
        match self.stage:
            case Stage.OUT:
                return self._wait(now, name, claims, facts.pending_since)
            case Stage.IN:
                mine = replace(mine, is_idle=facts.is_idle)
                if must_leave(name, {**claims, name: mine}, self._total_bytes, now):
                    return self._leave(mine, now)
        return mine

    def entered(self, now: float, held_bytes: int, load_seconds: float) -> Claim:
        """The model is loaded and keeps so much of what was reserved."""
        self.stage = Stage.IN
        self._needed_bytes = held_bytes
        turn_seconds = max(self._turn_seconds, _LOADS_A_TURN * load_seconds)
        return Claim(self._model, held_bytes, turn_ends_at=now + turn_seconds)

    def resized(self, name: str, claims: Mapping[str, Claim], needed_bytes: int) -> Claim:
        """The model turned out to need more or less: it gets what is free, or gives back."""
        mine = claims[name]
        free_bytes = max(0, self._total_bytes - reserved_bytes(claims.values()))
        held_bytes = min(needed_bytes, mine.reserved_bytes + free_bytes)
        self._needed_bytes = needed_bytes
        return replace(mine, reserved_bytes=held_bytes)

    def left(self) -> Claim:
        """The model is unloaded."""
        self.stage = Stage.OUT
        return self._out()

    def failed(self, now: float, retry_seconds: float, needed_bytes: int | None) -> Claim:
        """The model could not be loaded: it lets others go first for a while.

        `needed_bytes` is what it takes next time where memory was short, None where it was not.
        """
        if needed_bytes is not None:
            self._needed_bytes = needed_bytes
        self._not_before = now + retry_seconds
        return self.left()

    def gone_over(self, claim: Claim, now: float) -> Claim:
        """The model takes more than is there for it: it is to leave, and to come back for more."""
        return self._leave(claim, now)

    def _leave(self, claim: Claim, now: float) -> Claim:
        self.stage = Stage.LEAVING
        self._served_until = now
        return replace(claim, is_leaving=True, served_until=now)

    def _out(self) -> Claim:
        return Claim(self._model, served_until=self._served_until)

    def _wait(
        self, now: float, name: str, claims: Mapping[str, Claim], pending_since: float | None
    ) -> Claim:
        needed_bytes = self._needed(claims)
        if now < self._not_before or needed_bytes > self._total_bytes:
            return self._out()
        waiting = self._out()
        if pending_since is not None:
            since = self._since(now, name, claims, pending_since)
            waiting = replace(waiting, waiting_bytes=needed_bytes, waiting_since=since)
        if not may_enter(name, needed_bytes, {**claims, name: waiting}, self._total_bytes):
            return waiting
        self.stage = Stage.ENTERING
        return replace(self._out(), reserved_bytes=needed_bytes)

    def _needed(self, claims: Mapping[str, Claim]) -> int:
        if self._needed_bytes is not None:
            return self._needed_bytes
        free_bytes = self._total_bytes - reserved_bytes(claims.values())
        return free_bytes if free_bytes >= self._total_bytes * _WORTH_TRYING else self._total_bytes

    def _since(
        self, now: float, name: str, claims: Mapping[str, Claim], pending_since: float
    ) -> float:
        """Since when it waits while no process serves its model."""
        same = [each for at, each in claims.items() if each.model == self._model and at != name]
        if any(each.reserved_bytes and not each.is_leaving for each in same):
            return now
        before = claims[name].waiting_since
        ends = [self._served_until, *(each.served_until for each in same)]
        served_until = max((end for end in ends if end is not None), default=pending_since)
        return max(served_until, pending_since if before is None else before)
