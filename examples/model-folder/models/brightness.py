"""The model `brightness`."""

from typing import Literal

from PIL.Image import Image
from PIL.ImageStat import Stat


class Infer:
    """Computes how bright a picture is."""

    def __call__(
        self, image: Image, *, unit: Literal["fraction", "percent"] = "fraction"
    ) -> dict[str, object]:
        """Return the mean brightness of one picture in the unit that the caller chooses."""
        fraction = Stat(image.convert("L")).mean[0] / 255
        return {"brightness": fraction * 100 if unit == "percent" else fraction}
