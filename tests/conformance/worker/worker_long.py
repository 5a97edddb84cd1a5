"""A model whose jobs run until the test ends them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

from worker.models import Accepts, Context


class Infer:
    """Runs a job with the input `{"folder": …}` until the folder contains the file `gate`."""

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> Path:
        return Path(json.loads(item)["folder"])

    def __call__(self, batch: list[Path], contexts: list[Context]) -> list[Any]:
        return [self._run(folder, context) for folder, context in zip(batch, contexts, strict=True)]

    def _run(self, folder: Path, context: Context) -> dict[str, int]:
        note(folder / "started")
        try:
            while not (folder / "gate").exists():
                time.sleep(0.02)
                context.check()
        except Exception as error:
            note(folder / "stopped", type(error).__name__)
            raise
        return {"process": os.getpid()}


def note(path: Path, what: str = "") -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {what}\n")
