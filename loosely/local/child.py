"""Run a component's command in a process that the kernel kills when its supervisor dies.

``python -I -S child.py SUPERVISOR_PID COMMAND…`` asks the kernel for that, and then replaces itself
with the command. So the component needs no special code, and the supervisor runs no Python code
between fork and exec. On systems other than Linux, the reaper (:mod:`loosely.local.reaper`) kills
the component.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Replace this process with the command after the supervisor's process id."""
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
