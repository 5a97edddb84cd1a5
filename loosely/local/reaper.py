"""A process that kills the components' remaining processes after the supervisor has died.

On Linux, the kernel kills the components themselves (:mod:`loosely.local.child`), but not the
processes that they have started. On macOS, it kills none.

The supervisor sends a line ``+GROUP`` over a pipe when a component with this process group starts,
and ``-GROUP`` when it has ended. When the pipe closes, the reaper kills the groups that are left.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

_EXIT_TIMEOUT_SECONDS = 5.0


class Reaper:
    """Starts the reaper process, and sends the ids of process groups to it."""

    def __init__(self) -> None:
        """Start the reaper process in a new session, so that Ctrl-C does not stop it."""
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Add a process group to the reaper's list of the groups to kill."""
        self._send(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Remove a process group from the list, because its id may be given to a new group."""
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Close the pipe to the reaper, and wait until it has killed what is left and ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_EXIT_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        # Without a reaper, the kernel still kills the components themselves.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill every process of a process group, if the group still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run_reaper(lines: Iterable[str]) -> None:
    """Read lines until the pipe closes, then kill the process groups that are still listed."""
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
    run_reaper(sys.stdin)
