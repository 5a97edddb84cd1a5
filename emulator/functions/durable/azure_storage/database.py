"""The SQLite file of the task hub, which several host processes read and write concurrently.

As in the Azure Storage provider, dequeue, send, save and delete are separate transactions. SQLite
allows only one process to write at a time. If another process is writing, the transaction is
retried later. In the meantime, the event loop runs other tasks.

A committed transaction survives the death of the process. A power failure may undo the transaction,
because of `synchronous=NORMAL`.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import uniform
from typing import Any, TypeVar

from emulator.disk import DiskStatus
from emulator.functions.durable.errors import DatabaseForeign, StoreUnavailable
from emulator.functions.durable.store import INSTANCES_SCHEMA, checkpoint, is_busy
from emulator.program import make_private_file

T = TypeVar("T")
_log = logging.getLogger(__name__)
_COMMITS_PER_CHECKPOINT = 400
_BUSY_SECONDS = 0.003
_READ_TRIES = 200
# The default engine has another version number, so neither engine opens the file of the other.
_VERSION = 1001
_SCHEMA = f"""{INSTANCES_SCHEMA}
CREATE TABLE IF NOT EXISTS control_messages(
    id INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL, instance_id TEXT NOT NULL,
    execution TEXT, kind INTEGER NOT NULL, task INTEGER, text TEXT NOT NULL,
    visible_at INTEGER NOT NULL, dequeue_count INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS control_visible ON control_messages(partition, visible_at, id);
CREATE TABLE IF NOT EXISTS work_items(
    id INTEGER PRIMARY KEY AUTOINCREMENT, instance_id TEXT NOT NULL, execution TEXT NOT NULL,
    task INTEGER NOT NULL, name TEXT NOT NULL, input TEXT NOT NULL,
    visible_at INTEGER NOT NULL, dequeue_count INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS work_visible ON work_items(visible_at, id);
CREATE TABLE IF NOT EXISTS leases(
    partition INTEGER PRIMARY KEY, owner TEXT, expires_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS hosts(
    id TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reached_crash_points(point TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS awaited_events(
    instance_id TEXT NOT NULL, name TEXT NOT NULL, accepted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY(instance_id, name)) WITHOUT ROWID;
"""


class Database:
    """The connection of one host to the task hub. Only one event loop may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._commits = 0
        self._checkpoint: asyncio.Task[None] | None = None
        self._disk = DiskStatus(path.parent)

    async def open(self) -> None:
        """Open or create the task hub. Raises DatabaseForeign if that is impossible."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private_file(self._path)
        # If several hosts start at once, one of them creates the schema and the others try again.
        for attempt in range(_READ_TRIES):
            try:
                self._connection = self._connect()
            except sqlite3.OperationalError as problem:
                if not is_busy(problem) or attempt == _READ_TRIES - 1:
                    raise DatabaseForeign(f"{self._path} cannot be opened: {problem}") from problem
                await asyncio.sleep(_pause(0.01))
            except sqlite3.DatabaseError as problem:
                raise DatabaseForeign(
                    f"{self._path} is not a database: {problem}; move or delete the file to start "
                    "without its instances"
                ) from problem
            else:
                return

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, isolation_level=None, timeout=_BUSY_SECONDS, cached_statements=64
        )
        try:
            version = self._check_version(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=20000")
            if version == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={_VERSION};COMMIT;"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, _VERSION}:
            raise DatabaseForeign(
                f"{self._path} has the schema version {version}, but this engine needs "
                f"version {_VERSION}; move or delete the file to start without its instances"
            )
        return version

    async def close(self) -> None:
        """Wait for the end of a running write-ahead log checkpoint, and close the connection."""
        if self._checkpoint is not None:
            await asyncio.gather(self._checkpoint, return_exceptions=True)
        self.abandon()

    def abandon(self) -> None:
        """Close the connection at once, as if the process had died."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, sql: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a query, and return all rows. Raises StoreUnavailable if the query fails."""
        for _ in range(_READ_TRIES):
            try:
                return self._open_connection().execute(sql, arguments).fetchall()
            except sqlite3.Error as problem:
                # A read is refused only while another process recovers the file after a kill.
                if not is_busy(problem):
                    raise StoreUnavailable(f"The database refused a query: {problem}") from problem
                time.sleep(_BUSY_SECONDS)
        raise StoreUnavailable("The database is locked by another process: repeat the request")

    async def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in one write transaction, and return its result after the commit.

        SQLite's errors, OverflowError and ValueError become StoreUnavailable; after any error
        nothing is written.
        """
        while True:
            try:
                return self._transact(work)
            except sqlite3.OperationalError as problem:
                if not is_busy(problem):
                    raise StoreUnavailable(
                        f"The database refused the transaction: {problem}"
                    ) from problem
            except (sqlite3.Error, OverflowError, ValueError) as problem:
                raise StoreUnavailable(
                    f"The database refused the transaction: {problem}"
                ) from problem
            await asyncio.sleep(_pause(_BUSY_SECONDS))

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._open_connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            self._disk.note_error(error)
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            raise
        self._disk.note_success()
        self._commits += 1
        if self._commits >= _COMMITS_PER_CHECKPOINT and self._checkpoint is None:
            self._commits = 0
            self._checkpoint = asyncio.ensure_future(asyncio.to_thread(checkpoint, self._path))
            self._checkpoint.add_done_callback(self._checkpointed)
        return result

    def check_writable(self) -> None:
        """Raise StoreUnavailable if the task hub cannot be written now. Writes nothing."""
        if problem := self._disk.find_problem():
            raise StoreUnavailable(f"The database cannot be written: {problem}")

    def changes_of_others(self) -> int:
        """Return a number that changes when another process commits a transaction."""
        number: int = self.read("PRAGMA data_version")[0][0]
        return number

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("The database is closed")
        return self._connection

    def _checkpointed(self, task: asyncio.Task[None]) -> None:
        self._checkpoint = None
        if not task.cancelled() and task.exception() is not None:
            _log.debug(
                "the write-ahead log of %s could not be copied into the database; "
                "the host tries again after more commits: %s",
                self._path.name,
                task.exception(),
            )


class RemoteDatabase(Database):
    """A task hub with the latency of a remote store.

    Half of `delay_seconds` passes before each commit and half after it. `notify` is called between
    them: in Azure, too, a host can dequeue a message before its sender hears of the commit.
    """

    def __init__(self, path: Path, delay_seconds: float, notify: Callable[[], None]) -> None:
        super().__init__(path)
        self._half_seconds = delay_seconds / 2
        self._notify = notify

    async def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction, with half the delay before it and half after."""
        await asyncio.sleep(self._half_seconds)
        result = await super().transact(work)
        self._notify()
        await asyncio.sleep(self._half_seconds)
        return result


def _pause(seconds: float) -> float:
    """Return a random time around `seconds`, so that hosts do not retry in step."""
    return uniform(0.5, 1.5) * seconds  # noqa: S311 - not for secrets
