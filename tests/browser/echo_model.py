"""A model without torch that returns its input."""

from typing import ClassVar

from worker.models import Accepts


class Infer:
    """A model that returns its input unchanged."""

    accepts: ClassVar[Accepts] = "bytes"

    def __call__(self, item: bytes) -> bytes:
        return item
