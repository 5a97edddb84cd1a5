"""A board of pages: each process writes its own, all may read them, and each dies with its process.

A page is a small file that its process keeps locked; the kernel lets go of the lock when the
process ends, however it ends, and whoever looks next takes the page down. All reading and writing
happens under one more lock, so that nobody sees half a page: who is killed while writing one takes
it along.
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

_MUTEX = "mutex"
_SUFFIX = ".page"
_MAX_PAGE_BYTES = 64 * 1024

Document = Mapping[str, Any]


class Page:
    """One process's page. Only to be used within `Board.turn`."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, document: Document) -> None:
        """Replace what the page says."""
        data = json.dumps(document, separators=(",", ":")).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    def remove(self) -> None:
        """Take the page down."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


class Board:
    """The pages in one folder. Any thread, any process on this machine; made where missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._threads = threading.Lock()
        # What clears old files out of temporary folders passes over a folder that is locked.
        self._kept = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._kept, fcntl.LOCK_SH)
        self._mutex = os.open(folder / _MUTEX, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Keep all others off the board meanwhile: for some file calls, no longer."""
        with self._threads:
            fcntl.flock(self._mutex, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._mutex, fcntl.LOCK_UN)

    def add(self, document: Document) -> Page:
        """Put up a page of this process. Within a turn."""
        page = Page(self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}{_SUFFIX}")
        page.write(document)
        return page

    def read(self) -> dict[str, Document]:
        """All pages of living processes, by name. Within a turn."""
        found = {}
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            document = _read(path)
            if document is not None:
                found[path.stem] = document
        return found

    def close(self) -> None:
        """Let go of the folder; pages go with `remove` or with the process."""
        os.close(self._mutex)
        os.close(self._kept)


def _read(path: Path) -> Document | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _is_abandoned(file):
            path.unlink(missing_ok=True)
            return None
        document = json.loads(os.read(file, _MAX_PAGE_BYTES))
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
