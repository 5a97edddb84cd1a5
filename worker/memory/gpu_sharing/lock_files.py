"""Lock files: small documents that processes share, and that end with their process.

Each document is a file that its process keeps locked. The kernel frees the lock when the process
ends, however it ends, and the next reader removes the file. One more lock serialises all reading
and writing, so that no reader sees half a document.
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

# These names are the format that all workers of a machine share, also those of other versions.
_MUTEX = "mutex"
_SUFFIX = ".page"
_MAX_FILE_BYTES = 64 * 1024

Document = Mapping[str, Any]


class LockFile:
    """A document of this process. Use it only within `LockFileFolder.locked`."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, document: Document) -> None:
        """Replace the document."""
        data = json.dumps(document, separators=(",", ":")).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


class LockFileFolder:
    """The lock files in one folder, which is created if missing.

    Any thread, and any process on this machine, may use it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._thread_lock = threading.Lock()
        # Programs that delete old files in temporary folders skip a locked folder.
        self._folder_lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._folder_lock, fcntl.LOCK_SH)
        self._mutex = os.open(folder / _MUTEX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other threads and processes, for a few file operations only."""
        with self._thread_lock:
            fcntl.flock(self._mutex, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._mutex, fcntl.LOCK_UN)

    def add(self, document: Document) -> LockFile:
        """Create a lock file of this process. Call it within `locked`."""
        file = LockFile(self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}")
        file.write(document)
        return file

    def read(self) -> dict[str, Document]:
        """Return the documents of all living processes, by name. Call it within `locked`."""
        found = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            document = _read(path)
            if document is not None:
                found[path.stem] = document
        return found

    def close(self) -> None:
        """Close the folder. Lock files stay until `remove`, or until their process ends."""
        os.close(self._mutex)
        os.close(self._folder_lock)


def _read(path: Path) -> Document | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _is_abandoned(file):
            path.unlink(missing_ok=True)
            return None
        document = json.loads(os.read(file, _MAX_FILE_BYTES))
        return document if isinstance(document, dict) else None
    except ValueError:
        _log.warning("%s cannot be read: what its process holds of the device is unknown", path)
        return None
    finally:
        os.close(file)


def _is_abandoned(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
