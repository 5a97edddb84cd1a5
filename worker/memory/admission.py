"""Decide which models may be loaded, and which models must be unloaded to free memory.

The reservation of a model passes these stages:

    out ──reserved──▶ entering ──loaded──▶ in ──memory needed──▶ leaving ──unloaded──▶ out

The functions of this module read no clock and no file. The time and the records of all models are
arguments, so that all processes make the same decision.

The model that has waited longest is loaded first, even if a smaller model already fits into memory.
With this rule, a large model does not wait forever. There is one exception. If another process on
this device has already loaded the same model, the waiting model does not block other models, and no
model is unloaded for it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from worker.memory.lock_files import Document

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

    Attributes:
        model: The model's name.
        reserved_bytes: How many bytes are reserved for the model.
        waiting_bytes: How many bytes the model waits for; 0 if the model does not wait.
        waiting_since: When the model began to wait; None if the model does not wait.
        turn_ends_at: Until when the model may stay loaded although other models wait; None if the
            model is not loaded.
        served_until: The time at which the model was last chosen to be unloaded for other models;
            None if it was never chosen.
        is_idle: Whether the model has had no jobs for a short time.
        is_leaving: Whether the model is being unloaded.
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
        """Convert the JSON object in a lock file to a record.

        Raises:
            ValueError: The JSON object has an unknown field or lacks a required field.
        """
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(str(error)) from None


Records = Mapping[str, ReservationRecord]
"""The records of all models, by the names of their lock files."""


def reserved_bytes(records: Iterable[ReservationRecord]) -> int:
    """Return how many bytes these records reserve in total."""
    return sum(record.reserved_bytes for record in records)


def may_enter(name: str, size_bytes: int, records: Records, total_bytes: int) -> bool:
    """Return whether memory may be reserved for a model now.

    The result is True if enough memory is free, and if `waiting_names` returns this model first or
    returns no model. Otherwise, the result is False.

    Args:
        name: The name of the model's lock file.
        size_bytes: How many bytes the model needs.
        records: The records of all models, by the names of their lock files.
        total_bytes: How many bytes of memory the device has.
    """
    if size_bytes > total_bytes - reserved_bytes(records.values()):
        return False
    waiting = waiting_names(records, total_bytes)
    return not waiting or waiting[0] == name


def must_leave(name: str, records: Records, total_bytes: int, now: float) -> bool:
    """Return whether a model must be unloaded so that a waiting model can be loaded.

    Idle models are unloaded first, and then busy models in ascending order of the attribute
    `turn_ends_at` of their records. No more models are unloaded than necessary. A busy model is
    unloaded only when `turn_ends_at` has passed for all models that must be unloaded.

    Args:
        name: The name of the model's lock file.
        records: The records of all models, by the names of their lock files.
        total_bytes: How many bytes of memory the device has.
        now: The current time in seconds of the monotonic clock.
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
    """Return the names of the lock files of the models that wait for memory.

    The model that has waited longest comes first. The result contains neither models that another
    process has loaded nor models that need more memory than the device has.

    Args:
        records: The content of the lock files, by the names of the files.
        total_bytes: The memory of the device.
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
    """The stages of one model's reservation of device memory.

    Attributes:
        OUT: The model is not loaded, and no memory is reserved.
        ENTERING: Memory is reserved, and the model is being loaded.
        IN: The model is loaded, and its memory is reserved.
        LEAVING: The model is being unloaded, and its memory is still reserved.
    """

    OUT = "out"
    ENTERING = "entering"
    IN = "in"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class WorkState:
    """Whether a model has jobs to run.

    Attributes:
        pending_since: When the oldest message was put into the model's queues, in seconds of the
            monotonic clock; None if no message waits.
        is_idle: Whether the model has had no jobs for a short time.
    """

    pending_since: float | None
    is_idle: bool


class ReservationState:
    """The stage of one model's reservation, and how many bytes the model needs.

    Each method returns the model's new ReservationRecord. The caller must write this record into
    the model's lock file, so that other processes can read it.
    """

    def __init__(
        self, model: str, total_bytes: int, turn_seconds: float, needed_bytes: int | None
    ) -> None:
        """Create the state of a model that is not loaded.

        Args:
            model: The model's name.
            total_bytes: How many bytes of memory the device has.
            turn_seconds: How long a loaded model may stay in memory while other models wait.
            needed_bytes: How many bytes to reserve before the model is loaded; None if unknown.
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
        """Check once whether the model may be loaded or must be unloaded.

        If the model is not loaded and the function `may_enter` returns True, this method reserves
        the model's memory, except during the delay after a failed load. If the model is loaded and
        the function `must_leave` returns True, this method marks the model as leaving.

        Args:
            now: The current time in seconds of the monotonic clock.
            name: The name of the model's lock file.
            records: The records of all models, by the names of their lock files.
            work: Whether the model has jobs to run.

        Returns:
            The model's new record.
        """
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
        """Set the stage to IN after the load, and return the model's new record.

        The record reserves only `held_bytes`.

        Args:
            now: The current time in seconds of the monotonic clock.
            held_bytes: How many bytes stay reserved for the model.
            load_seconds: How long it took to load the model. After a long load, the model may stay
                loaded for a longer time while other models wait.
        """
        self.stage = ReservationStage.IN
        self._needed_bytes = held_bytes
        turn_seconds = max(self._turn_seconds, _MIN_LOAD_TIMES * load_seconds)
        return ReservationRecord(self._model, held_bytes, turn_ends_at=now + turn_seconds)

    def resize(self, name: str, records: Records, needed_bytes: int) -> ReservationRecord:
        """Change the reservation to `needed_bytes`, and return the model's new record.

        If not enough memory is free, the reservation grows only by the memory that is free.

        Args:
            name: The name of the model's lock file.
            records: The content of the lock files, by the names of the files.
            needed_bytes: The new size of the reservation.
        """
        mine = records[name]
        free_bytes = max(0, self._total_bytes - reserved_bytes(records.values()))
        held_bytes = min(needed_bytes, mine.reserved_bytes + free_bytes)
        self._needed_bytes = needed_bytes
        return replace(mine, reserved_bytes=held_bytes)

    def begin_to_leave(self, record: ReservationRecord, now: float) -> ReservationRecord:
        """Set the stage to LEAVING, and return a copy of `record` that is marked as leaving.

        `now` is the time at which the model was chosen to be unloaded, in seconds of the monotonic
        clock.
        """
        self.stage = ReservationStage.LEAVING
        self._served_until = now
        return replace(record, is_leaving=True, served_until=now)

    def leave(self) -> ReservationRecord:
        """Set the stage to OUT, and return a record that reserves no memory."""
        self.stage = ReservationStage.OUT
        return self._empty_record()

    def fail(self, now: float, retry_seconds: float, needed_bytes: int | None) -> ReservationRecord:
        """Set the stage to OUT after a failed load, and return a record that reserves no memory.

        Args:
            now: The current time in seconds of the monotonic clock.
            retry_seconds: How long to wait before memory is reserved again.
            needed_bytes: How many bytes to reserve for the next load; None if this number does not
                change.
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
        same = [each for key, each in records.items() if each.model == self._model and key != name]
        if any(each.reserved_bytes and not each.is_leaving for each in same):
            return now
        before = records[name].waiting_since
        ends = [self._served_until, *(each.served_until for each in same)]
        served_until = max((end for end in ends if end is not None), default=pending_since)
        return max(served_until, pending_since if before is None else before)
