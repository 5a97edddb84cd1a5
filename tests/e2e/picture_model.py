"""A model without torch that decodes pictures."""

from typing import ClassVar

from PIL.Image import Image

from worker.models import Accepts


class Infer:
    """A model that returns the original size of a picture.

    The model also scales the picture, as real models do.
    """

    accepts: ClassVar[Accepts] = "image"

    def preprocess(self, item: Image) -> tuple[int, int]:
        item.resize((32, 32))
        return item.size

    def __call__(self, batch: list[tuple[int, int]]) -> list[dict[str, int]]:
        return [{"width": width, "height": height} for width, height in batch]
