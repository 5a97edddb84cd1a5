"""A model that appends one line for each job to the file that the job's input names."""

import time
from pathlib import Path
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """A model whose inputs have the form `PATH NUMBER [MILLISECONDS]`.

    For each input, the model appends NUMBER to the file PATH, waits MILLISECONDS, and returns
    NUMBER.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> tuple[str, str, float]:
        path, number, *ms = item.decode().split()
        return path, number, sum(map(float, ms)) / 1000

    def __call__(self, batch: list[tuple[str, str, float]]) -> list[dict[str, str]]:
        for path, number, seconds in batch:
            with Path(path).open("a", encoding="utf-8") as ran:
                ran.write(f"{number}\n")
            time.sleep(seconds)
        return [{"number": number} for _, number, _ in batch]
