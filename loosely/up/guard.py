"""A process that outlives the supervisor just long enough to end what it left behind.

The kernel ends the parts themselves when the supervisor is killed (see
:mod:`loosely.up.child`), but not the processes that parts have started, and on macOS not
even the parts. The guard is told each part's process group over a pipe (``+GROUP``,
``-GROUP``); when the pipe closes, it kills the groups still on its list.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

_EXIT_TIMEOUT_SECONDS = 5.0


class Guard:
    """The supervisor's end of the pipe."""

    def __init__(self) -> None:
        """Start the guard, in a session of its own so that no terminal signal reaches it."""
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The guard's process id."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Have ``group`` killed when this process ends."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Take ``group`` from the list: its id may soon belong to someone else."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let the guard finish its list and end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # Without a guard, what the kernel does for the parts themselves still holds.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill every process of ``group``, if there is any left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def guard(lines: Iterable[str]) -> None:
    """Follow ``lines`` to their end, then kill the groups that are still watched."""
    groups: set[int] = set()
    for line in lines:
        sign, group = line[0], int(line[1:])
        if sign == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    guard(sys.stdin)
