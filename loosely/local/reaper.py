"""A process that kills what is left of the parts after the supervisor has died.

The kernel kills the parts themselves (:mod:`loosely.local.child`), but not the processes that parts
have started, and on macOS not even the parts. The supervisor sends the process group of each part
to the reaper over a pipe: ``+GROUP`` when it starts, ``-GROUP`` when it has ended. When the pipe
closes, the reaper kills the groups that are still listed.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

_EXIT_TIMEOUT_SECONDS = 5.0


class Reaper:
    """The supervisor's side: starts the reaper process and sends it process groups."""

    def __init__(self) -> None:
        """Start the process in its own session, so that Ctrl-C does not reach it."""
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id of the reaper."""
        return self._process.pid

    def watch(self, group: int) -> None:
        """Let the reaper kill ``group`` when this process ends."""
        self._send(f"+{group}\n")

    def forget(self, group: int) -> None:
        """Remove ``group`` from the list: the system may give its id to another process."""
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Let the reaper kill the listed groups, and wait for its end."""
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
        # Without a reaper, the kernel still kills the parts themselves.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill every process of ``group``, if there are any."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def run_reaper(lines: Iterable[str]) -> None:
    """Read ``lines`` to their end, then kill the groups that are still listed."""
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
