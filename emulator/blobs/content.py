"""Content files: written once under a random key, never changed, removed when nobody needs them.

A file exists before the index refers to it and goes after the index has forgotten it. So the
commit of the index is the only moment that matters, and whatever a crash leaves over is a file
that nothing refers to: ``sweep`` removes those when the service starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

_KEY_BYTES = 16
_FANS = [f"{number:02x}" for number in range(256)]


def new_key() -> str:
    """A name for a content file that no other has."""
    return token_hex(_KEY_BYTES)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ContentFile:
    """One content file that is being written; every method blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def seal(self) -> None:
        """Close the file; when this returns it is safe on disk."""
        try:
            os.fsync(self._descriptor)
        finally:
            self.close()
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Let go of the descriptor; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ContentFiles:
    """The directory of content files.

    ``pin`` and ``unpin`` keep a file alive while somebody streams it, though the blob is
    replaced or deleted meanwhile. They, and ``release``, belong to the event loop's thread;
    everything else may be called from any.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pins: dict[str, int] = {}
        self._doomed: set[str] = set()

    def prepare(self) -> None:
        """Make the directories."""
        self._root.mkdir(parents=True, exist_ok=True)
        for fan in _FANS:
            (self._root / fan).mkdir(exist_ok=True)
        sync_directory(self._root)

    def create(self, key: str) -> ContentFile:
        """Begin the file ``key``."""
        return ContentFile(self._path(key))

    def open(self, key: str) -> int:
        """A read-only descriptor of the file ``key``; the caller closes it."""
        return os.open(self._path(key), os.O_RDONLY)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files that nothing refers to."""
        for key in keys:
            self._path(key).unlink(missing_ok=True)

    def sweep(self, live: set[str]) -> int:
        """Remove every file that is not in ``live``; returns how many there were."""
        removed = 0
        for fan in _FANS:
            for entry in os.scandir(self._root / fan):
                if entry.name not in live:
                    Path(entry.path).unlink()
                    removed += 1
        return removed

    def pin(self, keys: Iterable[str]) -> None:
        """Keep these files until as many calls of ``unpin``."""
        for key in keys:
            self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, keys: Iterable[str]) -> list[str]:
        """Undo one ``pin``; returns the files that may be removed now."""
        free = []
        for key in keys:
            count = self._pins.pop(key) - 1
            if count:
                self._pins[key] = count
            elif key in self._doomed:
                self._doomed.remove(key)
                free.append(key)
        return free

    def release(self, keys: Iterable[str]) -> list[str]:
        """The index has forgotten ``keys``; returns those that may be removed now."""
        free = []
        for key in keys:
            if key in self._pins:
                self._doomed.add(key)
            else:
                free.append(key)
        return free

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key
