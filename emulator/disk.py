"""Check whether a service can write to its data directory.

A check reads the free space of the disk. If a write of the service has failed, the check also
writes a test file.
"""

import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

MIN_FREE_BYTES = 256 * 1024
"""The free disk space, in bytes, below which a service reports that it cannot write.

This space is enough for several commits. A commit of a few rows adds some pages of 4 KiB to the
write-ahead log of SQLite.
"""

_CHECK_BYTES = 4096
_CHECK_INTERVAL_SECONDS = 1.0
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENODEV}
)
_SQLITE_DISK_ERRORS = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
)


def is_disk_error(error: BaseException) -> bool:
    """Return whether an error means that the disk is full, read-only or broken."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)  # missing if Python raised the error
        return code is not None and code & 0xFF in _SQLITE_DISK_ERRORS
    return isinstance(error, OSError) and error.errno in _DISK_ERRORS


class DiskStatus:
    """Checks whether the data directory of a service can be written.

    Each check reads the free space of the disk. After `note_error` has recorded a failed write of
    the service, a check also writes and removes a small test file, at most once a second. These
    test writes end as soon as one of them succeeds, or as soon as `note_success` records that the
    service has written its own data. Only one thread at a time may call the methods.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._failure = ""
        self._checked_at = float("-inf")
        self._is_reported = False

    def note_error(self, error: BaseException) -> None:
        """Record that a write of the service failed. Ignore errors that the disk did not cause."""
        if is_disk_error(error):
            self._failure = str(error)
            self._report(self._failure)

    def note_success(self) -> None:
        """Record that a write of the service succeeded, so no test write is needed."""
        self._failure = ""

    def find_problem(self) -> str:
        """Return why the directory cannot be written, or an empty string if it can be written."""
        problem = self._find_problem()
        self._report(problem)
        return problem

    def _find_problem(self) -> str:
        try:
            disk = os.statvfs(self._directory)
        except OSError as error:
            return f"the data directory cannot be read: {error.strerror}"
        free_bytes = disk.f_bavail * disk.f_frsize
        # Some file systems report no blocks at all.
        if disk.f_blocks and free_bytes < MIN_FREE_BYTES:
            return f"the disk is full: only {free_bytes} bytes are free"
        if self._failure and self._clock() - self._checked_at >= _CHECK_INTERVAL_SECONDS:
            self._checked_at = self._clock()
            self._failure = self._try_write()
        return self._failure

    def _try_write(self) -> str:
        path = self._directory / f".write-check.{os.getpid()}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                written = os.write(descriptor, bytes(_CHECK_BYTES))
            finally:
                os.close(descriptor)
        except OSError as error:
            return f"the data directory cannot be written: {error.strerror}"
        finally:
            with suppress(OSError):
                path.unlink()
        return "" if written == _CHECK_BYTES else "the disk is full"

    def _report(self, problem: str) -> None:
        if bool(problem) == self._is_reported:
            return
        self._is_reported = bool(problem)
        if problem:
            _log.error(
                "%s cannot be written (%s): the service refuses changes until a write succeeds",
                self._directory,
                problem,
            )
        else:
            _log.info("%s can be written again", self._directory)
