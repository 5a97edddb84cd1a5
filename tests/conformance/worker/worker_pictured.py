"""A model with two named results. It answers with a size, a picture and a list of zeros."""

from __future__ import annotations

from typing import Any, ClassVar

from PIL import Image

from worker.models import Accepts, Results


class Sized(Results):
    """A picture of the size in the input, and as many zeros as it has pixels."""

    picture: Image.Image
    zeros: list[int] | None


class Infer:
    """Answers with the number of pixels, a picture and zeros. Size 0 leaves the picture out."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, size: Any) -> Sized:
        if not size:
            return Sized(0, zeros=[])
        picture = Image.effect_noise((size, size), 200)
        return Sized(size * size, picture=picture, zeros=[0] * size * size if size > 2 else None)
