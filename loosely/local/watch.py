"""Find out which files have changed: Python and TOML by content, others by time and size."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_CODE = (".py", ".toml")
_Stamp = tuple[int, int, int]
#: For each file, its stamp, and the digest of its content. Other files have no digest.
_State = dict[Path, tuple[_Stamp, bytes]]


class FileWatch:
    """Finds changes of files, and of the files in directories, since the last accepted change.

    Names that begin with a dot and `__pycache__` are ignored: editors and Python write there.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the current state of the files and the directories at ``paths``."""
        self._paths = paths
        self._accepted = self._reported = self._seen = self._read({})

    def find_changes(self) -> list[Path]:
        """Return the files that differ from the last accepted state. Each state is reported once.

        The result is empty if a file has changed since the last call: it may be only half written.
        """
        before, self._seen = self._seen, self._read(self._seen)
        if self._seen != before or _contents(self._seen) == _contents(self._reported):
            return []
        self._reported = self._seen
        changed = _contents(self._accepted).items() ^ _contents(self._reported).items()
        return sorted({path for path, _ in changed})

    def accept(self) -> None:
        """Compare later states with the state that was reported last."""
        self._accepted = self._reported

    def _read(self, before: _State) -> _State:
        found: _State = {}
        for path in self._files():
            # An editor may replace a file at any time.
            with suppress(OSError):
                status = path.stat()
                stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
                if path in before and before[path][0] == stamp:
                    found[path] = before[path]
                else:
                    is_code = path.suffix in _CODE
                    digest = hashlib.sha256(path.read_bytes()).digest() if is_code else b""
                    found[path] = (stamp, digest)
        return found

    def _files(self) -> Iterator[Path]:
        for top in self._paths:
            if not top.is_dir():
                yield top
            for directory, folders, names in os.walk(top):
                folders[:] = [name for name in folders if not _is_ignored(name)]
                yield from (Path(directory, name) for name in names if not _is_ignored(name))


def find_code_error(path: Path) -> str:
    """Return the place and the message of a Python file's syntax error, or an empty string."""
    if path.suffix != ".py":
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(path.read_bytes(), path, "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{path}, line {error.lineno}: {error.msg}"
    except (OSError, ValueError):  # removed again, or with null bytes
        return ""
    return ""


def _contents(state: _State) -> dict[Path, _Stamp | bytes]:
    return {path: digest or stamp for path, (stamp, digest) in state.items()}


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"
