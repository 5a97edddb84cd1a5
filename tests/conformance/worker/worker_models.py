"""A model for tests: the input of a job says when and how the job ends."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

from worker.models import Accepts, InvalidInput


class Infer:
    """Performs the action that the input names, for example `{"do": "sleep", "ms": 5}`."""

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, loses_device: bool = False, dies: bool = False) -> None:
        self.batches = 0
        if dies:
            gate = Path(os.environ["MODEL_DIES_AT"])
            while not gate.exists():
                time.sleep(0.02)
            os._exit(9)
        if loses_device:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def preprocess(self, item: bytes) -> dict[str, Any]:
        try:
            task: dict[str, Any] = json.loads(item)
        except ValueError:
            raise InvalidInput("the input is not JSON") from None
        if task["do"] == "fail-to-prepare":
            raise KeyError("a defect in preprocess")
        return task

    def __call__(self, batch: list[dict[str, Any]]) -> list[Any]:
        self.batches += 1
        return [self._run(task) for task in batch]

    def _run(self, task: dict[str, Any]) -> Any:
        match task["do"]:
            case "wait":
                wait_at_gate(task)
            case "sleep":
                time.sleep(task["ms"] / 1000)
            case "hang":
                note(Path(task["running"]))
                threading.Event().wait()
            case "raise":
                raise RuntimeError("a defect in the model")
            case "refuse":
                raise InvalidInput("the model wants another input")
            case "lose-device":
                wait_at_gate(task)
                raise RuntimeError("CUDA error: device-side assert triggered")
            case "die":
                os._exit(9)
            case "big":
                return {"text": "x" * task["size_bytes"]}
            case "no-json":
                return float("nan")
        return {"did": task["do"], "batch": self.batches}


def note(path: Path) -> None:
    """Append a line to a file, so that a test can count how often a job has run."""
    with path.open("a", encoding="utf-8") as file:
        file.write("run\n")


def wait_at_gate(task: dict[str, Any]) -> None:
    """Create the file `task["running"]`, and wait until the test creates `task["gate"]`."""
    Path(task["running"]).touch()
    while not Path(task["gate"]).exists():
        time.sleep(0.01)
