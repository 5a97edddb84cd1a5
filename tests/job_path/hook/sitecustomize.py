"""Record which of our modules run during a job. Python imports this file when a process starts.

The environment variable JOB_PATH_FOLDER names a folder. While this folder contains the file
`recording`, this process records each module in which a function is called, in the order of the
first calls. When the file `recording` has been removed, the process writes the names of the modules
to the file `PID.json` in the folder.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from types import FrameType

OURS = ("function_app", "gateway", "contract", "worker")
PROGRAMS = {"function_app", "worker"}
POLL_SECONDS = 0.01

_modules: dict[str, None] = {}
_is_recording = False


def _note(frame: FrameType, event: str, argument: object) -> None:
    if _is_recording and event == "call":
        name = frame.f_globals.get("__name__", "")
        if name not in _modules and name.partition(".")[0] in OURS:
            _modules[name] = None


def _watch(folder: Path) -> None:
    global _is_recording  # noqa: PLW0603 - one hook per process
    recording = folder / "recording"
    while True:
        # The emulators' processes load this file too, but a job does not pass our modules there.
        is_ours = not PROGRAMS.isdisjoint(sys.modules)
        if is_ours and recording.exists() != _is_recording:
            _is_recording = not _is_recording
            if not _is_recording:
                part = folder / f"{os.getpid()}.part"
                part.write_text(json.dumps(list(_modules)), encoding="utf-8")
                part.rename(part.with_suffix(".json"))
                _modules.clear()
            else:
                (folder / f"{os.getpid()}.ready").touch()
        time.sleep(POLL_SECONDS)


if "JOB_PATH_FOLDER" in os.environ:
    threading.Thread(
        target=_watch, args=(Path(os.environ["JOB_PATH_FOLDER"]),), daemon=True
    ).start()
    threading.setprofile(_note)
    sys.setprofile(_note)
