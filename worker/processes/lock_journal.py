"""Store the lock tokens of received messages in a file, for the worker that replaces this worker.

If a worker is killed, its messages stay locked until their locks expire. A lock token is enough to
abandon a message over any connection. So a worker notes the token of each message when it arrives,
and removes it when it is settled. The next worker on the machine takes over the journals of dead
workers and abandons their messages. Beside each token, the journal says how far the job has come,
and what is known of earlier deliveries. From this and from the way in which the worker died, the
next worker decides whether the delivery counts (`worker.processes.history`).

The file is mapped into memory, so that a note costs no system call and survives a `kill -9`. A
power failure may lose notes. Then the locks expire, as they do without a journal.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from contract.names import PROPERTY_WORKER_DEATH
from worker.processes.history import (
    HISTORY_BYTES,
    NO_HISTORY,
    DeliveryHistory,
    LockState,
    history_after_death,
)

# The format of the files with one suffix must not change, because workers of different versions
# share a folder. A file is a row of slots. A slot has one byte with the message's state, which is 0
# if the slot is free, a lock token, the delivery history, and the message's sequence number, which
# is 0 before the message was read.
SUFFIX: Final = ".locks2"
_TOKEN_BYTES: Final = 16
_SLOT: Final = struct.Struct(f"<B{_TOKEN_BYTES}s{HISTORY_BYTES}sq")
_DETAIL_BYTES: Final = _SLOT.size - 1 - _TOKEN_BYTES
_FIRST_SLOT_COUNT: Final = 200
_FREE: Final = 0
_NO_DETAILS: Final = bytes(_DETAIL_BYTES)


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """How a worker process died, for example `was killed by SIGSEGV`.

    `is_crash` says whether the process itself caused its death, and did not get a SIGKILL.
    """

    pid: int
    worker: str
    description: str
    is_crash: bool = False

    def __str__(self) -> str:
        return f"the worker process {self.worker} {self.description}"


@dataclass(frozen=True, slots=True)
class LeftMessage:
    """A message that a dead worker process has left locked.

    `history` is None if nothing must be changed. `death` is None if unknown, or if the job was not
    running then. `sequence_number` is 0 if unknown.
    """

    history: DeliveryHistory | None
    death: WorkerDeath | None
    sequence_number: int = 0

    @property
    def properties(self) -> dict[str, str]:
        """Return the application properties to set on the message when it is abandoned."""
        death = {} if self.death is None else {PROPERTY_WORKER_DEATH: str(self.death)}
        return death | ({} if self.history is None else self.history.to_properties())


class Slot(NamedTuple):
    """The content of one slot of a lock journal. `sequence_number` is 0 if it is unknown."""

    token: bytes
    state: LockState
    history: DeliveryHistory
    sequence_number: int


@dataclass(frozen=True, slots=True)
class LockJournals:
    """Where this process creates its lock journals, and how the previous worker died."""

    folder: Path
    death: WorkerDeath | None = None


class LockJournal:
    """The lock tokens of one queue's messages that this process has received and not settled.

    Any thread may call `set_state`, one thread the other methods. The process holds a file lock on
    the journal, which the operating system releases when the process ends in any way.
    """

    def __init__(self, folder: Path, namespace: str, queue: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        # A hash, because a queue's name may contain slashes and may be too long for a file's name.
        self._prefix = hashlib.sha256(f"{namespace}/{queue}".encode()).hexdigest()[:32]
        name = f"{self._prefix}-{os.getpid()}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        # The file gets its name after it is locked, so that no other process takes it over.
        draft = folder / f".{name}"
        self._file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = threading.Lock()
            self._slots = self._map(_FIRST_SLOT_COUNT)
            self.path = folder / name
            draft.rename(self.path)
        except BaseException:
            draft.unlink(missing_ok=True)
            os.close(self._file)
            raise
        self._used: dict[bytes, int] = {}
        self._free = list(range(_FIRST_SLOT_COUNT))[::-1]

    @property
    def tokens(self) -> list[bytes]:
        """Return the tokens that were noted and not removed."""
        return list(self._used)

    def note_arrival(self, token: bytes) -> None:
        """Write the lock token of a message that arrives. Raises OSError if the disk is full."""
        if len(token) != _TOKEN_BYTES or token in self._used:
            return
        self._put(token, LockState.ARRIVED, _NO_DETAILS)

    def note_read(self, token: bytes, history: DeliveryHistory, sequence_number: int = 0) -> None:
        """Note that a message was read, its earlier deliveries, and its number (0 if unknown)."""
        details = _encode_details(history, sequence_number)
        with self._lock:
            slot = self._used.get(token)
            if slot is not None:
                write_slot(self._slots, slot, LockState.WAITING, token, details)

    def set_state(self, token: bytes, state: LockState) -> None:
        """Note how far the job of a message has come. Do nothing if the token is not noted."""
        with self._lock:
            slot = self._used.get(token)
            if slot is not None:
                set_slot_state(self._slots, slot, state)

    def remove_token(self, token: bytes) -> None:
        """Remove a token, because its message is settled or its lock is lost."""
        with self._lock:
            slot = self._used.pop(token, None)
            if slot is not None:
                set_slot_state(self._slots, slot, _FREE)
                self._free.append(slot)

    def take_over_journals(self, death: WorkerDeath | None = None) -> dict[bytes, LeftMessage]:
        """Move the tokens of dead processes of this queue into this journal, and delete theirs.

        Return what the journals, and the last worker's `death`, say about the message of each
        token.
        """
        found: dict[bytes, LeftMessage] = {}
        for path in sorted(self._folder.glob(f"{self._prefix}-*{SUFFIX}")):
            with _locked(path) as content:
                if content is None:
                    continue
                writer = int(path.name.split("-")[1])
                known = death if death is not None and death.pid == writer else None
                for token, state, history, number in read_slots(content):
                    after = history_after_death(
                        state, history, is_crash=known is not None and known.is_crash
                    )
                    # If this process dies before it abandons the message, its own death must not
                    # count.
                    if token not in self._used:
                        new = LockState.LEFT if after is not None else LockState.RAN
                        self._put(token, new, _encode_details(after or history, number))
                    ran = state in (LockState.RUNNING, LockState.RUNNING_ALONE)
                    found[token] = LeftMessage(after, known if ran else None, number)
                # All tokens are in this file now. If this process is killed before the next line,
                # the tokens are in both files, and the second attempt to abandon a message fails.
                path.unlink(missing_ok=True)
        return found

    def close(self) -> None:
        """Close the file and release its file lock. The tokens stay in the file."""
        self._slots.close()
        os.close(self._file)

    def _map(self, slot_count: int) -> mmap.mmap:
        """Extend the file to `slot_count` slots for one token each, and map it into memory."""
        size_bytes = slot_count * _SLOT.size
        old_bytes = os.fstat(self._file).st_size
        # The new slots are filled with zeros. If the file were only extended, a later write to a
        # mapped page could kill the process when the disk is full.
        missing = size_bytes - old_bytes
        if os.pwrite(self._file, bytes(missing), old_bytes) != missing:
            raise OSError("the file system of the lock journal is full")
        return mmap.mmap(self._file, size_bytes)

    def _put(self, token: bytes, state: LockState, details: bytes) -> None:
        with self._lock:
            if not self._free:
                self._grow()
            slot = self._free.pop()
            write_slot(self._slots, slot, state, token, details)
            self._used[token] = slot

    def _grow(self) -> None:
        count = len(self._used)
        larger = self._map(count * 2)
        self._slots.close()
        self._slots = larger
        self._free = list(range(count, count * 2))[::-1]


def _encode_details(history: DeliveryHistory, sequence_number: int) -> bytes:
    # Most messages have no history.
    counts = bytes(HISTORY_BYTES) if history is NO_HISTORY else history.to_bytes()
    return counts + sequence_number.to_bytes(8, "little", signed=True)


def write_slot(slots: mmap.mmap, slot: int, state: LockState, token: bytes, details: bytes) -> None:
    """Write a token into a slot. If the slot is free, a reader never sees a part of the content."""
    begin = slot * _SLOT.size
    slots[begin + 1 : begin + _SLOT.size] = token + details
    slots[begin] = state


def set_slot_state(slots: mmap.mmap, slot: int, state: int) -> None:
    """Change the state in a slot; 0 marks the slot as free."""
    slots[slot * _SLOT.size] = state


def read_slots(content: bytes) -> list[Slot]:
    """Return the used slots in the content of a journal."""
    whole = content[: len(content) // _SLOT.size * _SLOT.size]
    return [
        Slot(token, LockState(state), DeliveryHistory.from_bytes(history), number)
        for state, token, history, number in _SLOT.iter_unpack(whole)
        if state != _FREE
    ]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bytes | None]:
    """Lock a journal and yield its content; None if a process holds it or it does not exist."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path.read_bytes()
    except (BlockingIOError, FileNotFoundError):
        yield None
    finally:
        os.close(file)
