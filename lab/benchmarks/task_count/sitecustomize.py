"""Write the number of asyncio tasks of this process to a file, again and again.

Python imports this file when a process starts. The environment variable TASK_COUNT_FOLDER names the
folder of the files, whose names are the process ids. Only processes that serve the gateway count.
"""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

_POLL_SECONDS = 0.05
_PROGRAMS = {"emulator.functions", "function_app"}


def _find_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of the main thread, if `asyncio.run` runs one there."""
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main or 0)
    while frame is not None:
        runner = frame.f_locals.get("self")
        if isinstance(runner, asyncio.Runner):
            return runner.get_loop()
        frame = frame.f_back
    return None


def _watch(folder: Path) -> None:
    path = folder / str(os.getpid())
    while True:
        time.sleep(_POLL_SECONDS)
        loop = None if _PROGRAMS.isdisjoint(sys.modules) else _find_loop()
        if loop is not None:
            part = path.with_suffix(".part")
            part.write_text(str(len(asyncio.all_tasks(loop))), encoding="ascii")
            part.rename(path)


if "TASK_COUNT_FOLDER" in os.environ:
    arguments = (Path(os.environ["TASK_COUNT_FOLDER"]),)
    threading.Thread(target=_watch, args=arguments, daemon=True).start()
