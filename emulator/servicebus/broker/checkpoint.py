"""Moves what is committed from the write-ahead log to the database, beside the event loop."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

_COMMITS_BETWEEN = 500
_LONGEST_LOG_PAGES = 16_000
"""64 MiB. Past this, writers wait for a moment so that the log can start again."""

logger = logging.getLogger(__name__)


class Checkpointer:
    """Runs checkpoints in a thread: they wait for the disk, which a commit here never does."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._commit_count = 0
        self._running: asyncio.Future[None] | None = None

    def committed(self) -> None:
        """Take note of a commit; every so many, a checkpoint begins."""
        self._commit_count += 1
        if self._commit_count < _COMMITS_BETWEEN or self._running is not None:
            return
        self._commit_count = 0
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(None, checkpoint, self._database)
        self._running.add_done_callback(self._ended)

    async def close(self) -> None:
        """Wait for the checkpoint that is running, if one is."""
        if self._running is not None:
            await self._running

    def _ended(self, _: asyncio.Future[None]) -> None:
        self._running = None


def checkpoint(database: Path, longest_log_pages: int = _LONGEST_LOG_PAGES) -> None:
    """Copy what can be copied at once; with a log that is too long, all of it."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            _, log_pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if log_pages > longest_log_pages:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error as error:
        # Nothing is lost: the log keeps growing, and the next checkpoint tries again.
        logger.warning("the write-ahead log of %s could not be shortened: %s", database, error)
