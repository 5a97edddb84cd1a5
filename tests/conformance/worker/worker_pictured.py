"""A model whose result is a number, with two named results: a picture and a list of zeros."""

from __future__ import annotations

from typing import Any, ClassVar

from PIL import Image

from worker.models import Accepts, Results


class Sized(Results):
    """The named results: a square picture, and a list with one zero for each of its pixels."""

    picture: Image.Image
    zeros: list[int] | None


class Infer:
    """Returns the number of pixels, a square picture and a list with one zero for each pixel.

    The input is the side length of the picture in pixels. For the side length 0, there is no
    picture. For the side lengths 1 and 2, there is no list.
    """

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, size: Any) -> Sized:
        if not size:
            return Sized(0, zeros=[])
        picture = Image.effect_noise((size, size), 200)
        return Sized(size * size, picture=picture, zeros=[0] * size * size if size > 2 else None)
