"""Apply changes to the index on one thread. One transaction may contain several changes.

Changes that arrive during a commit are applied together in the next commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from emulator.blobs.index.schema import open_writer

T = TypeVar("T")
Change = Callable[[sqlite3.Connection], T]

_CHANGES_A_COMMIT = 64


@dataclass(slots=True)
class _Waiting:
    change: Change[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class IndexCommitter:
    """Applies changes to the index in the order in which `apply` is called."""

    def __init__(self, path: Path) -> None:
        self._db = open_writer(path)
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="index-committer", daemon=True)

    def start(self) -> None:
        """Start the thread that applies the changes."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Commit all submitted changes and stop the thread. Blocks until the thread has ended."""
        self._queue.put(None)
        self._thread.join()
        self._db.close()

    async def apply(self, change: Change[T]) -> T:
        """Run a change in a transaction, and return its result, or raise its error, afterwards."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Waiting(change, future))
        # If the caller is cancelled, its future must stay valid, because the thread resolves it.
        return await asyncio.shield(future)

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._next_batch()
            if batch:
                self._commit(batch)
                self._loop.call_soon_threadsafe(_resolve, batch)

    def _next_batch(self) -> tuple[list[_Waiting], bool]:
        batch: list[_Waiting] = []
        item = self._queue.get()
        while item is not None:
            batch.append(item)
            if len(batch) == _CHANGES_A_COMMIT:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for waiting in batch:
                self._apply_one(waiting, alone=len(batch) == 1)
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            # This thread must not end, because all later changes would wait for ever.
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            for waiting in batch:
                waiting.error = error

    def _apply_one(self, waiting: _Waiting, *, alone: bool) -> None:
        if not alone:
            self._db.execute("SAVEPOINT one")
        try:
            waiting.result = waiting.change(self._db)
        except sqlite3.OperationalError:
            raise  # all changes of the commit fail, for example because the disk is full
        except Exception as error:  # noqa: BLE001 - the caller of `apply` raises it
            waiting.error = error
            self._db.execute("ROLLBACK" if alone else "ROLLBACK TO one")
        if not alone:
            self._db.execute("RELEASE one")


def _resolve(batch: list[_Waiting]) -> None:
    for waiting in batch:
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)
