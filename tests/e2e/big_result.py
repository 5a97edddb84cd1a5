"""A model whose result has the length that the input states."""

import io
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """Return a text with the number of characters that the input states."""

    accepts: ClassVar[Accepts] = "file"

    def preprocess(self, item: io.BufferedIOBase) -> int:
        return int(item.read(20))

    def __call__(self, batch: list[int]) -> list[object]:
        return [{"text": "x" * size} for size in batch]
