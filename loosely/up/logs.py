"""The log of each part: a file that the part itself writes to.

The supervisor never stands between a part and its log: what a part says costs it one
write, and what it said last is on disk however it died.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 16 * 1024 * 1024
_TAIL_BYTES = 16 * 1024


@dataclass(slots=True)
class PartLog:
    """``NAME.log``, and ``NAME.log.1`` with what came before it."""

    path: Path
    limit_bytes: int = LIMIT_BYTES
    _run_starts_at: int = 0

    @property
    def _previous(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def rotate(self) -> None:
        """Put the log of the last ``up`` aside."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self.path.replace(self._previous)

    def open(self) -> int:
        """Return a file descriptor to append to, and remember where this run begins.

        Append mode, so that a cut never leaves a hole before a writer's next line.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._run_starts_at = os.fstat(descriptor).st_size
        return descriptor

    def cut(self) -> None:
        """Move the text aside once it is over the limit; the part keeps its file open."""
        if not self.path.exists() or self.path.stat().st_size <= self.limit_bytes:
            return
        # Lines written between the copy and the cut are lost; a log that grows so fast
        # that this matters repeats itself.
        shutil.copyfile(self.path, self._previous)
        os.truncate(self.path, 0)
        self._run_starts_at = 0

    def tail(self, count: int) -> list[str]:
        """Return the last ``count`` lines of the present run that say anything."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._run_starts_at, size - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return ["".join(c if c.isprintable() else "·" for c in line) for line in lines[-count:]]

    def last_line(self) -> str:
        """Return the last line of the present run, or nothing."""
        return next(iter(self.tail(1)), "")
