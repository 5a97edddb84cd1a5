"""Run a service until standard input is closed: `python service_child.py MODULE [OPTION…]`.

The pytest plugin starts each service with this script. The system closes the pipe to standard input
when pytest ends, even if pytest is killed. Therefore no service runs longer than its tests.
"""

import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def _stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    # Run the service of the package that contains this file, also if the package is not installed.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.argv = sys.argv[1:]
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
