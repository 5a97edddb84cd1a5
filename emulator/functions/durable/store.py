"""The database of the default engine, which groups writes into transactions.

All writes in one iteration of the event loop share a transaction. The future of each write is
resolved after the commit. A committed transaction survives the death of the process. A power
failure may undo the transaction, because of `synchronous=NORMAL`.

A checkpoint of the write-ahead log waits for the disk, so it runs in a thread.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.disk import DiskStatus
from emulator.functions.durable.errors import DatabaseForeign, DatabaseInUse, StoreUnavailable

Statement = tuple[str, tuple[Any, ...]]
_log = logging.getLogger(__name__)
COMMITS_PER_CHECKPOINT = 400
_VERSION = 1
# A history WITHOUT ROWID, as older databases have it, reads whole events to compare their keys.
INSTANCES_SCHEMA = """
CREATE TABLE IF NOT EXISTS instances(
    id TEXT PRIMARY KEY, execution TEXT NOT NULL, name TEXT NOT NULL, version TEXT,
    status TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
    turn INTEGER NOT NULL, parent_id TEXT, parent_execution TEXT, parent_task INTEGER,
    shim TEXT NOT NULL, custom_status TEXT, output TEXT, input TEXT);
CREATE TABLE IF NOT EXISTS history(
    id TEXT NOT NULL, turn INTEGER NOT NULL, events TEXT NOT NULL,
    PRIMARY KEY(id, turn));
CREATE TABLE IF NOT EXISTS settings(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_SCHEMA = f"""{INSTANCES_SCHEMA}
CREATE TABLE IF NOT EXISTS inbox(
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL, kind INTEGER NOT NULL, task INTEGER,
    execution TEXT, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS work(
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL, execution TEXT NOT NULL,
    task INTEGER NOT NULL, name TEXT NOT NULL, input TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS timers(
    id TEXT NOT NULL, task INTEGER NOT NULL, execution TEXT NOT NULL, due INTEGER NOT NULL,
    PRIMARY KEY(id, task)) WITHOUT ROWID;
"""


class Store:
    """The SQLite database of the default engine. Only one event loop may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[_Write] = []
        self._commits = 0
        self.running_checkpoint: asyncio.Task[None] | None = None
        self._connection: sqlite3.Connection | None = None
        self._host_lock: sqlite3.Connection | None = None
        self._disk = DiskStatus(path.parent)

    def open(self) -> None:
        """Open or create the database.

        Raises DatabaseInUse if another host uses the database, DatabaseForeign if the file is not a
        database or has another schema version, and StoreUnavailable if the database cannot be read
        or created, for example because the disk is full.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._host_lock = _lock(self._path)
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, cached_statements=64
            )
            self._prepare(self._connection)
        except (sqlite3.Error, OSError) as problem:
            self.abandon()
            kind = DatabaseForeign if _is_foreign(problem) else StoreUnavailable
            raise kind(f"The database {self._path} cannot be opened: {problem}") from problem
        except BaseException:
            self.abandon()
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create the tables, or check the version. Raises DatabaseForeign for another one."""
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=20000")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, _VERSION}:
            raise DatabaseForeign(
                f"The database {self._path} has the schema version {version}, but this engine "
                f"needs version {_VERSION}; move or delete the file to start without its instances"
            )
        if version != _VERSION:
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={_VERSION}")

    async def close(self) -> None:
        """Commit the pending statements, and close the database."""
        self.flush()
        if self.running_checkpoint is not None:
            await asyncio.gather(self.running_checkpoint, return_exceptions=True)
        self.abandon()

    def abandon(self) -> None:
        """Close the database at once without a commit, as if the process had died."""
        for connection in (self._connection, self._host_lock):
            if connection is not None:
                connection.close()
        self._connection = self._host_lock = None

    @property
    def is_busy(self) -> bool:
        """Return whether there are statements that are not committed yet."""
        return bool(self._pending)

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query, and return all rows. Raises StoreUnavailable if the query fails."""
        if self._connection is None:
            raise StoreUnavailable("The database is closed")
        try:
            return self._connection.execute(sql, arguments).fetchall()
        except sqlite3.Error as problem:
            raise StoreUnavailable(f"The database refused a query: {problem}") from problem

    def check_writable(self) -> None:
        """Raise StoreUnavailable if the database cannot be written now. Writes nothing."""
        if problem := self._disk.find_problem():
            raise StoreUnavailable(f"The database cannot be written: {problem}")

    def write(
        self, statements: Sequence[Statement], on_end: Callable[[bool], None] | None = None
    ) -> asyncio.Future[None]:
        """Execute statements in one transaction, which other writes may share.

        Return a future that is resolved after the commit. The future raises StoreUnavailable if the
        transaction failed. In this case, none of the statements was committed. The statements are
        executed even if the future is cancelled. `on_end` is called after the transaction and
        before the future's waiter, with whether the statements were committed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if not self._pending:
            loop.call_soon(self.flush)
        self._pending.append(_Write(statements, future, on_end))
        return future

    def flush(self) -> None:
        """Commit the statements that wait."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            self._transact([statement for write in pending for statement in write.statements])
        except (sqlite3.Error, OverflowError, ValueError) as problem:
            if len(pending) == 1:
                pending[0].fail(problem)
                return
            # A failing statement must not make the other writes fail, so commit each write alone.
            for write in pending:
                self._transact_alone(write)
            return
        for write in pending:
            write.succeed()

    def _transact_alone(self, write: "_Write") -> None:
        try:
            self._transact(write.statements)
        except (sqlite3.Error, OverflowError, ValueError) as problem:
            write.fail(problem)
        else:
            write.succeed()

    def _transact(self, statements: Sequence[Statement]) -> None:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the database is closed")
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for sql, arguments in statements:
                execute(sql, arguments)
            self.commit()
        except BaseException as error:
            self._disk.note_error(error)
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        self._disk.note_success()
        self._commits += 1
        if self._commits >= COMMITS_PER_CHECKPOINT and self.running_checkpoint is None:
            self._commits = 0
            self.running_checkpoint = asyncio.ensure_future(
                asyncio.to_thread(checkpoint, self._path)
            )
            self.running_checkpoint.add_done_callback(self._checkpointed)

    def commit(self) -> None:
        """Commit the open transaction."""
        assert self._connection is not None
        self._connection.execute("COMMIT")

    def _checkpointed(self, task: asyncio.Task[None]) -> None:
        self.running_checkpoint = None
        if not task.cancelled() and task.exception() is not None:
            _log.warning(
                "the write-ahead log of %s could not be copied into the database; "
                "the host tries again after more commits: %s",
                self._path.name,
                task.exception(),
            )

    def get_setting(self, name: str, default: str) -> str:
        """Return a setting of the task hub; without one, store `default`.

        Raises StoreUnavailable if the database cannot be read or written.
        """
        find = "SELECT value FROM settings WHERE name=?"
        # An existing database must open on a full disk, so write only if the setting is missing.
        if not (rows := self.read(find, (name,))):
            self.read("INSERT OR IGNORE INTO settings VALUES(?, ?)", (name, default))
            rows = self.read(find, (name,))
        return str(rows[0][0])


@dataclass(frozen=True, slots=True)
class _Write:
    """Statements that wait for their transaction, and who waits for its end."""

    statements: Sequence[Statement]
    future: asyncio.Future[None]
    on_end: Callable[[bool], None] | None

    def succeed(self) -> None:
        self._end(is_committed=True)
        if not self.future.done():
            self.future.set_result(None)

    def fail(self, problem: Exception) -> None:
        self._end(is_committed=False)
        if not self.future.done():
            text = f"The database refused the transaction: {problem}"
            self.future.set_exception(StoreUnavailable(text))
            self.future.exception()  # mark it as retrieved: not every caller awaits the future

    def _end(self, *, is_committed: bool) -> None:
        if self.on_end is not None:
            self.future.get_loop().call_soon(self.on_end, is_committed)


def checkpoint(path: Path) -> None:
    """Copy the write-ahead log into the database file. This blocks the calling thread."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _lock(path: Path) -> sqlite3.Connection:
    """Lock the database for this host, and return the connection that holds the lock.

    The lock is released when the connection is closed or the process ends. Raises DatabaseInUse if
    another host has the lock, and sqlite3.Error if the lock file cannot be used.
    """
    guard = sqlite3.connect(path.with_name(path.name + ".lock"), isolation_level=None, timeout=0)
    try:
        guard.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as problem:
        guard.close()
        if not is_busy(problem):
            raise
        raise DatabaseInUse(
            f"Another host is using the database {path}; stop that host, or use another data "
            "directory"
        ) from problem
    return guard


def _is_foreign(problem: Exception) -> bool:
    """Return whether `problem` is SQLite's error for a file that is not a database."""
    code: int | None = getattr(problem, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_NOTADB


def is_busy(problem: sqlite3.Error) -> bool:
    """Return whether SQLite refused an operation because another connection has a lock."""
    code: int | None = getattr(problem, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
