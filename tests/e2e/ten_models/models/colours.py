"""A model that reduces a picture to a few colours."""

import numpy as np
from PIL.Image import Image


class Infer:
    """Reduces a picture to a few colours, and returns these colours."""

    def __init__(self, palette: int) -> None:
        self._palette = palette

    def __call__(self, image: Image) -> dict[str, object]:
        pixels = np.asarray(image.quantize(self._palette).convert("RGB")).reshape(-1, 3)
        return {"colours": np.unique(pixels, axis=0).tolist()}
