"""The log file of each component.

The component itself writes to the file, so its output is not lost when the component is killed.
"""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 16 * 1024
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d")


@dataclass(slots=True)
class PartLog:
    """The log files of a component: ``NAME.log``, and ``NAME.log.1`` with older output."""

    path: Path
    limit_bytes: int = LIMIT_BYTES
    _run_starts_at: int = 0

    @property
    def _previous(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def rotate(self) -> None:
        """Rename the log of the previous `loosely up` to ``NAME.log.1``."""
        # If this fails, the new output is appended to the old log.
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.path.replace(self._previous)

    def open(self) -> int:
        """Open the log for a new process, and return the file descriptor, which the caller closes.

        If the log cannot be opened, because the disk is full, the output is discarded.
        """
        try:
            # `limit_size` may truncate the log meanwhile, so it is in append mode.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError:
            self._run_starts_at = 0
            return os.open(os.devnull, os.O_WRONLY)
        self._run_starts_at = os.fstat(descriptor).st_size
        return descriptor

    def limit_size(self) -> None:
        """Copy a log that is larger than the limit to ``NAME.log.1`` if possible, and truncate it.

        Lines that the component writes between the copy and the truncation are lost.
        """
        try:
            if self.path.stat().st_size <= self.limit_bytes:
                return
        except OSError:
            return
        try:
            shutil.copyfile(self.path, self._previous)
        except OSError:
            with suppress(OSError):
                self._previous.unlink(missing_ok=True)
        with suppress(OSError):
            os.truncate(self.path, 0)
        self._run_starts_at = 0

    def read_run(self) -> "LogReader":
        """Return a reader of the lines that the component's latest process writes."""
        return LogReader(self.path, self._run_starts_at)

    def tail(self, count: int) -> list[str]:
        """Return the last ``count`` non-blank lines of the component's latest process."""
        try:
            with self.path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._run_starts_at, size - _TAIL_BYTES))
                text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return ["".join(c if c.isprintable() else "·" for c in line) for line in lines[-count:]]

    def last_line(self) -> str:
        """Return the last non-blank line of the component's latest process, or an empty string."""
        return next(iter(self.tail(1)), "")


class LogReader:
    """Reads the lines that are appended to a log file."""

    def __init__(self, path: Path, position: int = 0) -> None:
        """Create a reader that begins at a position in bytes."""
        self._path = path
        self._position = position

    def read_new(self) -> list[str]:
        """Return the complete lines that were written since the last call.

        If there are more than 16 MiB, only the first ones are returned, and the others are skipped.
        """
        try:
            with self._path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                # `PartLog.limit_size` may have truncated the file.
                begin = self._position if self._position <= size else 0
                log.seek(begin)
                content = log.read(LIMIT_BYTES)
        except OSError:
            return []
        complete = content[: content.rfind(b"\n") + 1]
        self._position = begin + len(complete) if begin + len(content) == size else size
        return complete.decode("utf-8", "replace").splitlines()


def split_entries(lines: Iterable[str]) -> list[list[str]]:
    """Return the entries of a log, each with its lines.

    An entry begins with a time or a JSON object. A traceback belongs to the entry before it.
    """
    entries: list[list[str]] = []
    for line in lines:
        if not entries or line.startswith("{") or _TIME.match(line):
            entries.append([line])
        else:
            entries[-1].append(line)
    return entries
