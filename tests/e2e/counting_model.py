"""A model that appends one line for each job to the file that the job's input names."""

import os
import time
from pathlib import Path
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """A model whose inputs have the form `PATH NUMBER [MILLISECONDS [DEATH]]`.

    It appends NUMBER to the file PATH, waits, and returns NUMBER. With DEATH, the process exits
    with this code, or is killed by signal N if DEATH is -N.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> tuple[str, str, float, int | None]:
        path, number, *others = item.decode().split()
        seconds = float(others[0]) / 1000 if others else 0.0
        return path, number, seconds, int(others[1]) if others[1:] else None

    def __call__(self, batch: list[tuple[str, str, float, int | None]]) -> list[dict[str, str]]:
        for path, number, seconds, death in batch:
            with Path(path).open("a", encoding="utf-8") as ran:
                ran.write(f"{number}\n")
            time.sleep(seconds)
            if death is not None:
                if death >= 0:
                    os._exit(death)
                os.kill(os.getpid(), -death)
                time.sleep(60)
        return [{"number": number} for _, number, _, _ in batch]
