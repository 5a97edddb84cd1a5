"""The CPU as a card: a budget that all worker processes on the machine share, as they would a card.

What models hold and what their batches take is charged on one account. A charge over the budget
fails where it is made, admitted or not: so what runs here without an error runs on a card of that
size, and what would not, does not here either.
"""

import contextlib
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.memory.board import Board
from worker.memory.device import Batch, Holder, T
from worker.memory.errors import BudgetExceeded
from worker.memory.meter import metering, resident_bytes

_RECORD = "record.json"
_USED = "used_bytes"


@dataclass(frozen=True, slots=True)
class Record:
    """What an account has seen: the most in use at one time, and how many charges it refused."""

    peak_bytes: int = 0
    refused_count: int = 0

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """Of the account in this folder."""
        try:
            return cls(**json.loads((folder / _RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return cls()

    def write(self, folder: Path) -> None:
        """Replace what was recorded."""
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
        Path(name).replace(folder / _RECORD)


class Account:
    """What all processes use of the budget. Any thread; a process's share ends with it."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._board = Board(folder)
        self._used_bytes = 0
        with self._board.turn():
            self._page = self._board.add({_USED: 0})

    @property
    def used_bytes(self) -> int:
        """What this process uses of the budget now."""
        return self._used_bytes

    def charge(self, size_bytes: int) -> None:
        """Use so much more; BudgetExceeded where that is not there."""
        with self._board.turn():
            in_use = sum(int(page.get(_USED, 0)) for page in self._board.read().values())
            record = Record.read(self._folder)
            if in_use + size_bytes > self._budget_bytes:
                Record(record.peak_bytes, record.refused_count + 1).write(self._folder)
                raise BudgetExceeded(
                    f"{size_bytes} bytes more than the {in_use} in use are over the budget of "
                    f"{self._budget_bytes}"
                )
            if in_use + size_bytes > record.peak_bytes:
                Record(in_use + size_bytes, record.refused_count).write(self._folder)
            self._write(self._used_bytes + size_bytes)

    def release(self, size_bytes: int) -> None:
        """Use so much less."""
        with self._board.turn():
            self._write(self._used_bytes - size_bytes)

    def close(self) -> None:
        """Give everything back."""
        with self._board.turn():
            self._page.remove()
        self._board.close()

    def _write(self, used_bytes: int) -> None:
        self._page.write({_USED: used_bytes})
        self._used_bytes = used_bytes


class Charge:
    """What one batch uses so far."""

    def __init__(self, account: Account, limit_bytes: int | None) -> None:
        self._account = account
        self._limit_bytes = limit_bytes
        self.size_bytes = 0

    def grow_to(self, size_bytes: int) -> None:
        """Use so much in all, unless it is that much already."""
        _check(size_bytes, self._limit_bytes)
        more_bytes = size_bytes - self.size_bytes
        if more_bytes > 0:
            self._account.charge(more_bytes)
            self.size_bytes = size_bytes

    def release(self) -> None:
        """The batch is over."""
        if self.size_bytes:
            self._account.release(self.size_bytes)
            self.size_bytes = 0


class Budget:
    """The device `cpu`. See Device."""

    key = "cpu"

    def __init__(self, account: Account, total_bytes: int) -> None:
        self._account = account
        self.total_bytes = total_bytes

    @property
    def used_bytes(self) -> int:
        """See Device."""
        return self._account.used_bytes

    def load(self, build: Callable[[], T], limit_bytes: int | None) -> tuple[T, int]:
        """See Device. What it takes is charged when it is there."""
        holder = build()
        size_bytes = resident_bytes(holder) + holder.memory_bytes(0)
        _check(size_bytes, limit_bytes)
        self._account.charge(size_bytes)
        return holder, size_bytes

    def unload(self, resident_bytes: int) -> None:
        """See Device."""
        gc.collect()
        self._account.release(resident_bytes)

    @contextlib.contextmanager
    def running(self, holder: Holder, batch: Batch) -> Iterator[None]:
        """See Device."""
        charge = Charge(self._account, batch.limit_bytes)
        try:
            if batch.known_bytes is not None:
                charge.grow_to(batch.known_bytes)
                yield
                return
            declared_bytes = holder.memory_bytes(batch.cost) - holder.memory_bytes(0)
            charge.grow_to(declared_bytes)
            with metering(lambda live: charge.grow_to(declared_bytes + live)) as peak:
                yield
                batch.measured_bytes = max(declared_bytes, 0) + peak()
        finally:
            charge.release()

    def release_cached(self) -> None:
        """See Device: nothing is kept."""
        gc.collect()


def _check(size_bytes: int, limit_bytes: int | None) -> None:
    if limit_bytes is not None and size_bytes > limit_bytes:
        raise BudgetExceeded(f"{size_bytes} bytes are more than the {limit_bytes} reserved for it")
