"""Run the worker, and record which of our modules run a function: `python -m …path_recorder`.

Send SIGUSR2 to write the record to the file PATH_RECORD, and to start a new one.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

_OURS = ("worker.", "contract.")
# These threads run at fixed times, whether jobs come or not.
_PERIODIC_THREADS = ("health", "memory")


class PathRecorder:
    """Our modules, in the order in which a function of each is first called."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._modules: dict[str, None] = {}

    def record(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record a call. The profile function of every thread."""
        if event == "call" and threading.current_thread().name not in _PERIODIC_THREADS:
            name = frame.f_globals.get("__name__", "")
            if name.startswith(_OURS):
                self._modules.setdefault(name)

    def write(self, number: int, frame: FrameType | None) -> None:
        """Write the record and start a new one. The signal's handler."""
        modules, self._modules = list(self._modules), {}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(modules), encoding="utf-8")
        part.replace(self._path)


def main() -> None:
    recorder = PathRecorder(Path(os.environ["PATH_RECORD"]))
    signal.signal(signal.SIGUSR2, recorder.write)
    threading.setprofile(recorder.record)
    sys.argv = ["worker"]
    runpy.run_module("worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
