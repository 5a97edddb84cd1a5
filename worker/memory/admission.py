"""Decide which models may be loaded, and which models must be unloaded to free memory.

The reservation of a model passes these stages:

    out ──reserved──▶ entering ──loaded──▶ in ──memory needed──▶ leaving ──unloaded──▶ out

The time and the records of all models are arguments, so that all processes decide alike.

The model that has waited longest is loaded first, even if a smaller model already fits into memory,
so that a large model does not wait forever. A model that another process has already loaded on this
device does not block other models, and no model is unloaded for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

# A model stays in memory for at least this many times its load time, so that loading uses at most a
# fifth of the time.
_MIN_LOAD_TIMES = 4.0
# A model of unknown size reserves all free memory if that is at least this share of the device's
# memory. Otherwise it waits for the whole device.
_MIN_FREE_SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class ReservationRecord:
    """The memory that is reserved for one model in one process, or that the model waits for.

    Times are seconds of the machine's monotonic clock, which all processes of the machine share.
    Until `turn_ends_at`, a loaded model may stay although other models wait. `served_until` is when
    it was last chosen to be unloaded for others. It is idle if it had no jobs for a short time.
    """

    model: str
    reserved_bytes: int = 0
    waiting_bytes: int = 0
    waiting_since: float | None = None
    turn_ends_at: float | None = None
    served_until: float | None = None
    is_idle: bool = False
    is_leaving: bool = False


Records = Mapping[str, ReservationRecord]
"""The records of all models, by the names of their lock files."""


def reserved_bytes(records: Iterable[ReservationRecord]) -> int:
    """Return how many bytes these records reserve in total."""
    return sum(record.reserved_bytes for record in records)


def may_enter(name: str, size_bytes: int, records: Records, total_bytes: int) -> bool:
    """Return whether `size_bytes` are free for a model, and no other model has waited longer."""
    if size_bytes > total_bytes - reserved_bytes(records.values()):
        return False
    waiting = waiting_names(records, total_bytes)
    return not waiting or waiting[0] == name


def must_leave(name: str, records: Records, total_bytes: int, now: float) -> bool:
    """Return whether a model must be unloaded so that a waiting model can be loaded.

    Idle models are unloaded first, and then busy models in the order in which their turns end. No
    more models are unloaded than necessary. A busy model is unloaded only when the turns of all
    models that must be unloaded have ended.
    """
    waiting = waiting_names(records, total_bytes)
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
    # Busy models are unloaded together, because the waiting model needs the memory of all of them.
    return staying[name].is_idle or all(_turn_ends_at(staying[key]) <= now for key in leaving)


def waiting_names(records: Records, total_bytes: int) -> list[str]:
    """Return the lock files of the models that wait for memory, longest first.

    The result contains neither models that another process has loaded nor models that need more
    memory than the device has.
    """
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
    """The stages of one model's reservation of device memory."""

    OUT = "out"
    ENTERING = "entering"
    IN = "in"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class WorkState:
    """Whether a model has jobs to run, and since when a message waits in its queues, if any."""

    pending_since: float | None
    is_idle: bool


class ReservationState:
    """The stage of one model's reservation, and how many bytes the model needs.

    Each method returns the model's new record, which the caller must write into the model's lock
    file. `records` are the records of all models, by the names of their lock files, and `name` is
    the one of this model.
    """

    def __init__(
        self, model: str, total_bytes: int, turn_seconds: float, needed_bytes: int | None
    ) -> None:
        """Create the state of a model that is not loaded.

        A loaded model may stay in memory for `turn_seconds` while others wait. `needed_bytes` is
        None if it is unknown how much to reserve for a load.
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
        """Check once whether the model may be loaded or must be unloaded."""
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
        """Set the stage to IN after the load, and keep only `held_bytes` reserved."""
        self.stage = ReservationStage.IN
        self._needed_bytes = held_bytes
        turn_seconds = max(self._turn_seconds, _MIN_LOAD_TIMES * load_seconds)
        return ReservationRecord(self._model, held_bytes, turn_ends_at=now + turn_seconds)

    def resize(self, name: str, records: Records, needed_bytes: int) -> ReservationRecord:
        """Change the reservation to `needed_bytes`, or to what is free of it."""
        mine = records[name]
        free_bytes = max(0, self._total_bytes - reserved_bytes(records.values()))
        held_bytes = min(needed_bytes, mine.reserved_bytes + free_bytes)
        self._needed_bytes = needed_bytes
        return replace(mine, reserved_bytes=held_bytes)

    def begin_to_leave(self, record: ReservationRecord, now: float) -> ReservationRecord:
        """Set the stage to LEAVING, and mark the record."""
        self.stage = ReservationStage.LEAVING
        self._served_until = now
        return replace(record, is_leaving=True, served_until=now)

    def leave(self) -> ReservationRecord:
        """Set the stage to OUT, and reserve no memory."""
        self.stage = ReservationStage.OUT
        return self._empty_record()

    def fail(self, now: float, retry_seconds: float, needed_bytes: int | None) -> ReservationRecord:
        """Set the stage to OUT after a failed load, and reserve no memory for some time."""
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
        same = [each for key, each in records.items() if each.model == self._model and key != name]
        if any(each.reserved_bytes and not each.is_leaving for each in same):
            return now
        before = records[name].waiting_since
        ends = [self._served_until, *(each.served_until for each in same)]
        served_until = max((end for end in ends if end is not None), default=pending_since)
        return max(served_until, pending_since if before is None else before)
