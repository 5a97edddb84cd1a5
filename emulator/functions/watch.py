"""Find out which files of a Function App have changed.

A file is read again if its time or size changes. It has changed only if its content differs.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

_NAMES = frozenset({"host.json", "local.settings.json", "function.json"})
_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_POLL_SECONDS = 0.4
_QUIET_SECONDS = 0.2
_LONGEST_POLL_SECONDS = 1.5
# The checks use at most about 2 % of one processor.
_PAUSES_PER_CHECK = 50
# For each file: the time, the size and the number of the file, and the digest of its content.
State = dict[Path, tuple[tuple[int, int, int], bytes]]
Sleep = Callable[[float], Awaitable[object]]


class AppFileWatch:
    """Compares the files in an app's folder with their state at the previous check.

    Only Python files, host.json, local.settings.json and function.json count. Folders whose names
    begin with a dot, `__pycache__`, `node_modules` and virtual environments are ignored.
    """

    def __init__(self, folder: Path) -> None:
        """Read the current state of the files in `folder`."""
        self._folder = folder
        self._seen = _read(folder, {})

    def find_changes(self) -> list[Path]:
        """Return the files that were changed, added or removed since the previous call."""
        before, self._seen = self._seen, _read(self._folder, self._seen)
        paths = before.keys() | self._seen.keys()
        return sorted(path for path in paths if _digest(before, path) != _digest(self._seen, path))

    async def wait_for_changes(self, sleep: Sleep = asyncio.sleep) -> list[Path]:
        """Check the files regularly until some change, and return those.

        Wait until no file has changed for 0.2 s: an editor may write several, one after the other.
        """
        pause_seconds = _POLL_SECONDS
        changes: set[Path] = set()
        while True:
            await sleep(_QUIET_SECONDS if changes else pause_seconds)
            begin = time.perf_counter()
            found = await asyncio.to_thread(self.find_changes)
            if changes and not found:
                return sorted(changes)
            changes.update(found)
            pause_seconds = min(
                max(_POLL_SECONDS, _PAUSES_PER_CHECK * (time.perf_counter() - begin)),
                _LONGEST_POLL_SECONDS,
            )


def forget_bytecode(source: Path) -> None:
    """Delete a file's bytecode, which Python runs after two changes within one second."""
    for cached in _bytecode(source):
        with suppress(OSError):
            cached.unlink()


def forget_old_bytecode(folder: Path) -> None:
    """Do the same for all files in `folder` that have changed since their bytecode was written."""
    for source, ((changed_ns, _, _), _) in _read(folder, {}).items():
        for cached in _bytecode(source):
            with suppress(OSError):
                if cached.stat().st_mtime_ns <= changed_ns:
                    cached.unlink()


def _bytecode(source: Path) -> Iterable[Path]:
    return (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")


def _digest(state: State, path: Path) -> bytes | None:
    return state[path][1] if path in state else None


def _read(folder: Path, before: State) -> State:
    found: State = {}
    folders = [folder]
    while folders:
        # An editor may replace or remove a file or folder at any time.
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                _read_entry(entry, before, found, folders)
    return found


def _read_entry(
    entry: "os.DirEntry[str]", before: State, found: State, folders: list[Path]
) -> None:
    with suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            if not _is_ignored(entry):
                folders.append(Path(entry.path))
        elif entry.name in _NAMES or entry.name.endswith(".py"):
            path, status = Path(entry.path), entry.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            known = before.get(path)
            is_known = known is not None and known[0] == stamp
            digest = known[1] if known and is_known else hashlib.sha256(path.read_bytes()).digest()
            found[path] = (stamp, digest)


def _is_ignored(folder: "os.DirEntry[str]") -> bool:
    return (
        folder.name.startswith(".")
        or folder.name in _IGNORED_FOLDERS
        or Path(folder.path, "pyvenv.cfg").exists()
    )
