"""A model that has named inputs and does not need torch, and its entry in the catalogue."""

from typing import Final

import numpy as np
from PIL.Image import Image
from PIL.ImageChops import difference
from PIL.ImageStat import Stat

ENTRY: Final = """
[differ]
implementation = "tests.conformance.rest.named_input_model"
description = "How much two pictures differ in each channel."
media_types = ["image/jpeg", "image/png"]
inputs.other = {media_types = ["image/jpeg", "image/png"]}
inputs.weights = {media_types = ["application/x-npy", "application/json"], optional = true}
"""


class Infer:
    """A model that returns how much two pictures differ in each channel."""

    def __call__(
        self, image: Image, *, other: Image, weights: np.ndarray | None = None
    ) -> list[float]:
        found = np.array(Stat(difference(image, other)).mean)
        return [float(each) for each in (found if weights is None else found * weights)]
