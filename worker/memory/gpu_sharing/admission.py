"""Decide which model may load and which must make room.

    out ──reserved──▶ entering ──loaded──▶ in ──another waits──▶ leaving ──unloaded──▶ out

Everything here is pure: time and the records of all models are arguments, so that all processes
come to the same decision.

A model *lacks a place* if it waits, and no process of this device has it loaded. They load
in the order of their waiting time. None overtakes the first, because otherwise a large model could
wait forever while small ones come and go. Nothing is unloaded for a model that has a place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.memory.gpu_sharing.lock_files import Document

# A model that is slow to load stays for this many load times at least, so that loading takes at
# most a fifth of the time.
_MIN_LOAD_TIMES = 4.0
# A model of unknown size tries with the free memory, if that is at least this share of the device.
_MIN_FREE_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class ReservationRecord:
    """What one model in one process has reserved or waits for.

    Times are seconds of the machine's monotonic clock, which all its processes share.

    Attributes:
        model: The model's name.
        reserved_bytes: The memory that is reserved for it.
        waiting_bytes: The memory that it waits for.
        waiting_since: Since when it waits; None if it does not wait.
        turn_ends_at: Until when it may stay while others wait; None if it is not loaded.
        served_until: When it last had to make room; None if it never had to.
        is_idle: Whether it has had no work for a while.
        is_leaving: Whether it is being unloaded.
    """

    model: str
    reserved_bytes: int = 0
    waiting_bytes: int = 0
    waiting_since: float | None = None
    turn_ends_at: float | None = None
    served_until: float | None = None
    is_idle: bool = False
    is_leaving: bool = False

    @classmethod
    def read(cls, document: Document) -> "ReservationRecord":
        """Return the record in a lock file; raise ValueError if it has another format."""
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(str(error)) from None


Records = Mapping[str, ReservationRecord]
"""The records of all models, by the names of their lock files."""


def reserved_bytes(records: Iterable[ReservationRecord]) -> int:
    """Return how much memory is reserved in total."""
    return sum(record.reserved_bytes for record in records)


def may_enter(name: str, size_bytes: int, records: Records, total_bytes: int) -> bool:
    """Return whether this model may reserve `size_bytes` now."""
    if size_bytes > total_bytes - reserved_bytes(records.values()):
        return False
    waiting = lacking_a_place(records, total_bytes)
    return not waiting or waiting[0] == name


def must_leave(name: str, records: Records, total_bytes: int, now: float) -> bool:
    """Return whether this model must make room for a waiting one.

    Idle models leave first, then those whose turn ends first, and not more than necessary.
    """
    waiting = lacking_a_place(records, total_bytes)
    if not waiting:
        return False
    staying = {key: record for key, record in records.items() if not record.is_leaving}
    size_bytes = records[waiting[0]].waiting_bytes
    missing_bytes = size_bytes - total_bytes + reserved_bytes(staying.values())
    leaving = []
    for key in sorted(staying, key=lambda key: (_turn_ends_at(staying[key]), key)):
        if missing_bytes <= 0:
            break
        leaving.append(key)
        missing_bytes -= staying[key].reserved_bytes
    if name not in leaving:
        return False
    # Busy models leave together: the waiting model gains nothing before the last one leaves.
    return staying[name].is_idle or all(_turn_ends_at(staying[key]) <= now for key in leaving)


def lacking_a_place(records: Records, total_bytes: int) -> list[str]:
    """Return the waiting models that no process has loaded; the longest waiting first."""
    placed = {
        record.model
        for record in records.values()
        if record.reserved_bytes and not record.is_leaving
    }
    waiting = [
        (record.waiting_since, name)
        for name, record in records.items()
        if record.waiting_since is not None
        and record.model not in placed
        and record.waiting_bytes <= total_bytes
    ]
    return [name for _, name in sorted(waiting)]


def _turn_ends_at(record: ReservationRecord) -> float:
    if not record.reserved_bytes or record.turn_ends_at is None:
        return float("inf")
    return float("-inf") if record.is_idle else record.turn_ends_at


class ReservationStage(StrEnum):
    """The stages of a reservation."""

    OUT = "out"
    ENTERING = "entering"
    IN = "in"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class WorkState:
    """A model's work at this moment.

    Attributes:
        pending_since: Since when its oldest message waits; None if no message waits.
        is_idle: Whether it has had no work for a while.
    """

    pending_since: float | None
    is_idle: bool


class ReservationState:
    """The stage of one model's reservation, and the record that belongs to it.

    Each method returns the model's new record, which the caller writes into its lock file.
    """

    def __init__(
        self, model: str, total_bytes: int, turn_seconds: float, needed_bytes: int | None
    ) -> None:
        """Start in the stage OUT.

        Args:
            model: The model's name.
            total_bytes: The memory of the device.
            turn_seconds: How long a loaded model may stay while others wait.
            needed_bytes: What to reserve before loading; None if the size is unknown.
        """
        self._model = model
        self._total_bytes = total_bytes
        self._turn_seconds = turn_seconds
        self._needed_bytes = needed_bytes
        self._served_until: float | None = None
        self._not_before = float("-inf")
        self.stage = ReservationStage.OUT

    def advance(
        self, now: float, name: str, records: Records, work: WorkState
    ) -> ReservationRecord:
        """Take the next step if one is due."""
        mine = records[name]
        match self.stage:
            case ReservationStage.OUT:
                return self._try_to_enter(now, name, records, work.pending_since)
            case ReservationStage.IN:
                mine = replace(mine, is_idle=work.is_idle)
                if must_leave(name, {**records, name: mine}, self._total_bytes, now):
                    return self.begin_to_leave(mine, now)
        return mine

    def enter(self, now: float, held_bytes: int, load_seconds: float) -> ReservationRecord:
        """Note that the model is loaded, and keeps this much of what was reserved."""
        self.stage = ReservationStage.IN
        self._needed_bytes = held_bytes
        turn_seconds = max(self._turn_seconds, _MIN_LOAD_TIMES * load_seconds)
        return ReservationRecord(self._model, held_bytes, turn_ends_at=now + turn_seconds)

    def resize(self, name: str, records: Records, needed_bytes: int) -> ReservationRecord:
        """Change the reservation to what the model needs, as far as memory is free."""
        mine = records[name]
        free_bytes = max(0, self._total_bytes - reserved_bytes(records.values()))
        held_bytes = min(needed_bytes, mine.reserved_bytes + free_bytes)
        self._needed_bytes = needed_bytes
        return replace(mine, reserved_bytes=held_bytes)

    def begin_to_leave(self, record: ReservationRecord, now: float) -> ReservationRecord:
        """Note that the model is to be unloaded."""
        self.stage = ReservationStage.LEAVING
        self._served_until = now
        return replace(record, is_leaving=True, served_until=now)

    def leave(self) -> ReservationRecord:
        """Note that the model is unloaded."""
        self.stage = ReservationStage.OUT
        return self._empty_record()

    def fail(self, now: float, retry_seconds: float, needed_bytes: int | None) -> ReservationRecord:
        """Note that the model could not be loaded, and let others go first for a while.

        Args:
            now: The current time.
            retry_seconds: How long to wait before the next try.
            needed_bytes: What to reserve next time if memory was short; None if it was not.
        """
        if needed_bytes is not None:
            self._needed_bytes = needed_bytes
        self._not_before = now + retry_seconds
        return self.leave()

    def _empty_record(self) -> ReservationRecord:
        return ReservationRecord(self._model, served_until=self._served_until)

    def _try_to_enter(
        self, now: float, name: str, records: Records, pending_since: float | None
    ) -> ReservationRecord:
        size_bytes = self._size_bytes(records)
        if now < self._not_before or size_bytes > self._total_bytes:
            return self._empty_record()
        waiting = self._empty_record()
        if pending_since is not None:
            since = self._waiting_since(now, name, records, pending_since)
            waiting = replace(waiting, waiting_bytes=size_bytes, waiting_since=since)
        if not may_enter(name, size_bytes, {**records, name: waiting}, self._total_bytes):
            return waiting
        self.stage = ReservationStage.ENTERING
        return replace(self._empty_record(), reserved_bytes=size_bytes)

    def _size_bytes(self, records: Records) -> int:
        if self._needed_bytes is not None:
            return self._needed_bytes
        free_bytes = self._total_bytes - reserved_bytes(records.values())
        return (
            free_bytes if free_bytes >= self._total_bytes * _MIN_FREE_SHARE else self._total_bytes
        )

    def _waiting_since(
        self, now: float, name: str, records: Records, pending_since: float
    ) -> float:
        """Return since when the model waits while no process serves it."""
        same = [each for key, each in records.items() if each.model == self._model and key != name]
        if any(each.reserved_bytes and not each.is_leaving for each in same):
            return now
        before = records[name].waiting_since
        ends = [self._served_until, *(each.served_until for each in same)]
        served_until = max((end for end in ends if end is not None), default=pending_since)
        return max(served_until, pending_since if before is None else before)
