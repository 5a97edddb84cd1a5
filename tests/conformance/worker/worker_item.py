"""An item model for tests: the input of a job says how long the job runs."""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from tests.conformance.worker.worker_models import note, wait_at_gate
from worker.models import Accepts


class Infer:
    """Performs the action that the input names, for example `{"do": "sleep", "ms": 5}`."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        match task["do"]:
            case "wait":
                wait_at_gate(task)
            case "sleep":
                time.sleep(task["ms"] / 1000)
            case "hold-interpreter":
                # PyDLL keeps the lock of the interpreter, as faulty C code does.
                ctypes.PyDLL(None).sleep(600)
            case "hang":
                note(Path(task["running"]))
                threading.Event().wait()
        return {"did": task["do"]}
