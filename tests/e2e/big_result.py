"""A model whose result is as long as it is asked to be."""

import io
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """Reads a number of characters, and answers with so many."""

    accepts: ClassVar[Accepts] = "file"

    def preprocess(self, item: io.BufferedIOBase) -> int:
        return int(item.read(20))

    def __call__(self, batch: list[int]) -> list[object]:
        return [{"text": "x" * size} for size in batch]
