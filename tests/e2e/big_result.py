"""A model whose result is a text of the length that the input states."""

import io
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """A model that reads a number from the input, and returns a text of that many characters."""

    accepts: ClassVar[Accepts] = "file"

    def preprocess(self, item: io.BufferedIOBase) -> int:
        return int(item.read(20))

    def __call__(self, batch: list[int]) -> list[object]:
        return [{"text": "x" * size} for size in batch]
