"""Small JSON files through which processes share data.

Each file belongs to one process, which keeps the file locked. When the process ends in any way, the
operating system releases the lock, and the next reader deletes the file. A second lock permits only
one read or write at a time, so that no process reads an incomplete file.
"""

import contextlib
import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

# These names must not change, because workers of different versions on a machine share the files.
_MUTEX = "mutex"
_SUFFIX = ".page"
_MAX_FILE_BYTES = 64 * 1024

Document = Mapping[str, Any]


class LockFile:
    """A JSON file of this process that others can read. Use it only in `LockFileFolder.locked`."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, document: Document) -> None:
        """Replace the content of the file with this JSON object."""
        data = json.dumps(document, separators=(",", ":")).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))


class LockFileFolder:
    """A folder of lock files, for any thread and any process on this machine.

    Call `add` and `read` only in a `with locked()` block. The folder stays open forever.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._thread_lock = threading.Lock()
        # The folder is locked, because programs that delete old temporary files skip locked
        # folders.
        fcntl.flock(os.open(folder, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)
        self._mutex = os.open(folder / _MUTEX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other threads and processes. The block must be short."""
        with self._thread_lock:
            fcntl.flock(self._mutex, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._mutex, fcntl.LOCK_UN)

    def add(self, document: Document) -> LockFile:
        """Create a lock file of this process."""
        file = LockFile(self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}")
        file.write(document)
        return file

    def read(self) -> dict[str, Document]:
        """Return the content of the files of running processes by name. Delete the others."""
        found = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            document = _read(path)
            if document is not None:
                found[path.stem] = document
        return found


def _read(path: Path) -> Document | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process of the file has ended.
            path.unlink(missing_ok=True)
            return None
        document = json.loads(os.read(file, _MAX_FILE_BYTES))
        return document if isinstance(document, dict) else None
    except ValueError:
        _log.warning("the lock file %s cannot be read; its memory reservation is ignored", path)
        return None
    finally:
        os.close(file)
