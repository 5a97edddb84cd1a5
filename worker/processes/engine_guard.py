"""Run an engine server, and end it with all its processes when the worker ends.

``python -I -S engine_guard.py COMMAND…`` starts the command. When the command ends, or when
standard input is closed, which the kernel also does if the worker dies, the guard ends the command
and all processes that it has started. It exits with the command's code, 128 + N after signal N.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 5.0
_STEP_SECONDS = 0.02
_EXIT_NOT_FOUND = 127


def main(command: list[str]) -> int:
    """Run the command until it ends or standard input is closed. Return its exit code."""
    libc = ctypes.CDLL(None)
    # Processes whose parent has ended become children of this one, so that it finds them.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The command must end even if this process is killed.
    try:
        child = subprocess.Popen(  # noqa: S603 - the operator's own command
            command,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return _EXIT_NOT_FOUND
    watched = os.pidfd_open(child.pid)
    select.select([watched, sys.stdin], [], [])
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    while pids := _children():
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_STEP_SECONDS)
        child.poll()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _children() -> list[int]:
    """Return the ids of this process's children that have not ended."""
    me = os.getpid()
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # The name in parentheses may contain spaces.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == me and state != "Z":
                found.append(int(status.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
