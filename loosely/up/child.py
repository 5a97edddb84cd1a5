"""Become a part: ask the kernel to end it with the supervisor, then run its command.

Run as a file (``python -I -S child.py SUPERVISOR_PID COMMAND…``) before the part's own
program, so that the supervisor forks without running Python in the fork, and the part need
not know that it is supervised. Linux only has this request; elsewhere the guard alone ends
what is left (see :mod:`loosely.up.guard`).
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Replace this process by the command in ``arguments[1:]``."""
    supervisor_pid, *command = arguments
    if sys.platform == "linux":
        _die_with_parent()
    # The supervisor may have died before the request was made; then no signal will come.
    if os.getppid() != int(supervisor_pid):
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is the supervisor's own


def _die_with_parent() -> None:
    """Have SIGKILL sent to this process when the thread that started it ends."""
    import ctypes  # noqa: PLC0415 - costs 10 ms that other systems need not pay

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.stderr.write(f"cannot tie to the supervisor: {os.strerror(ctypes.get_errno())}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
