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
        self._out_since = float("-inf")
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
                    self.stage = Stage.LEAVING
                    return replace(mine, is_leaving=True)
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

    def left(self, now: float) -> Claim:
        """The model is unloaded."""
        self.stage = Stage.OUT
        self._out_since = now
        return Claim(self._model)

    def failed(self, now: float, retry_seconds: float, needed_bytes: int | None) -> Claim:
        """The model could not be loaded: it lets others go first for a while.

        `needed_bytes` is what it takes next time where memory was short, None where it was not.
        """
        if needed_bytes is not None:
            self._needed_bytes = needed_bytes
        self._not_before = now + retry_seconds
        return self.left(now)

    def gone_over(self, claim: Claim) -> Claim:
        """The model takes more than is there for it: it is to leave, and to come back for more."""
        self.stage = Stage.LEAVING
        return replace(claim, is_leaving=True)

    def _wait(
        self, now: float, name: str, claims: Mapping[str, Claim], pending_since: float | None
    ) -> Claim:
        needed_bytes = self._needed(claims)
        if now < self._not_before or needed_bytes > self._total_bytes:
            return Claim(self._model)
        waiting = Claim(self._model)
        if pending_since is not None:
            since = self._since(now, name, claims, pending_since)
            waiting = Claim(self._model, waiting_bytes=needed_bytes, waiting_since=since)
        if not may_enter(name, needed_bytes, {**claims, name: waiting}, self._total_bytes):
            return waiting
        self.stage = Stage.ENTERING
        return Claim(self._model, reserved_bytes=needed_bytes)

    def _needed(self, claims: Mapping[str, Claim]) -> int:
        if self._needed_bytes is not None:
            return self._needed_bytes
        free_bytes = self._total_bytes - reserved_bytes(claims.values())
        return free_bytes if free_bytes >= self._total_bytes * _WORTH_TRYING else self._total_bytes

    def _since(
        self, now: float, name: str, claims: Mapping[str, Claim], pending_since: float
    ) -> float:
        """Since when it waits without a place: not while another process serves its model."""
        if any(
            claim.model == self._model and claim.reserved_bytes and not claim.is_leaving
            for at, claim in claims.items()
            if at != name
        ):
            return now
        before = claims[name].waiting_since
        return before if before is not None else max(pending_since, self._out_since)
