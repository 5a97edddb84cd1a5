"""Run a component's command in a process that the kernel kills when its supervisor dies.

Run this file as ``python -I -S child.py SUPERVISOR_PID COMMAND…``. The file's code asks the kernel
to kill the process when the supervisor dies, and then replaces the process with the command.
Therefore the component needs no special code, and the supervisor runs no Python code between fork
and exec.

Only Linux can kill a process when its parent dies. On other systems, the reaper
(:mod:`loosely.local.reaper`) kills the component.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Replace this process with the command that ``arguments`` contains.

    ``arguments[0]`` is the supervisor's process id, and the following arguments are the command.
    Exits with 1 if the supervisor has died.
    """
    supervisor_pid, *command = arguments
    if sys.platform == "linux":
        _die_with_parent()
    # If the supervisor died before the call above, the kernel does not send the signal.
    if os.getppid() != int(supervisor_pid):
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command is the supervisor's own


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    import ctypes  # noqa: PLC0415 - costs 10 ms, needed on Linux only

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        sys.stderr.write(
            f"the kernel cannot kill this process when the supervisor dies: {reason}\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
