"""Find out which file has changed, by the files' sizes and modification times."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class FileWatch:
    """Finds a change of a file, or of the files in a directory, since the previous search.

    Files and directories whose names begin with a dot, and the directories `__pycache__`, are
    ignored: editors and Python write there.
    """

    def __init__(self, path: Path) -> None:
        """Read the current state of the file or the directory at ``path``."""
        self._path = path
        self._seen = self._read()

    def find_change(self) -> Path | None:
        """Return a file that was changed, added or removed since the last call, or ``None``."""
        before, self._seen = self._seen, self._read()
        changed = before.items() ^ self._seen.items()
        return min(path for path, _ in changed) if changed else None

    def _read(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self._files():
            # An editor may replace a file at any time.
            with suppress(OSError):
                status = path.stat()
                found[path] = (status.st_mtime_ns, status.st_size)
        return found

    def _files(self) -> Iterator[Path]:
        if not self._path.is_dir():
            yield self._path
        for directory, folders, names in os.walk(self._path):
            folders[:] = [name for name in folders if not _is_ignored(name)]
            yield from (Path(directory, name) for name in names if not _is_ignored(name))


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"
