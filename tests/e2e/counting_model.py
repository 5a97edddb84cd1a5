"""A model that writes down each job that reaches it: one line in the file that its input names."""

from pathlib import Path
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """Input: `<path> <number>`."""

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> tuple[str, str]:
        path, number = item.decode().split()
        return path, number

    def __call__(self, batch: list[tuple[str, str]]) -> list[dict[str, str]]:
        for path, number in batch:
            with Path(path).open("a", encoding="utf-8") as ran:
                ran.write(f"{number}\n")
        return [{"number": number} for _, number in batch]
