"""A model without torch. Its option `shape` selects the kind of result that the model returns.

The value of the option in the catalogue entry is `boxes`, `mask`, `grey`, `tone`, `large`,
`numbers` or `parts`.
"""

import io
import math
import struct
import wave
from typing import Any, ClassVar

from PIL import Image

from worker.models import Accepts, InvalidInput, Results


class Infer:
    """A model that returns boxes, a mask, a sound or a large result, depending on `shape`."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(self, shape: str) -> None:
        self._shape = shape

    def preprocess(self, item: Image.Image, parameters: dict[str, Any]) -> tuple[int, int, float]:
        if item.size == (1, 1):
            raise InvalidInput("the picture has only one pixel")
        return (*item.size, float(parameters.get("inset", 0.25)))

    def __call__(self, batch: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
        if any(width == 13 for width, _, _ in batch):
            raise RuntimeError("pictures of 13 pixels have no luck")
        return batch

    def postprocess(  # noqa: PLR0911 - one result for each shape
        self, output: tuple[int, int, float]
    ) -> object:
        width, height, inset = output
        if self._shape == "mask":
            return _mask(width, height)
        if self._shape == "grey":
            return Image.linear_gradient("L").resize((width, height))
        if self._shape == "numbers":
            return {"embedding": [number / 2 for number in range(256)]}
        if self._shape == "tone":
            return _tone()
        if self._shape == "large":
            return {"text": "x" * 500_000, "width": width}
        boxes = [
            ("cat", 0.9, (width * inset, height * inset, width * 0.75, height * 0.75)),
            ("dog", 0.4, (width * 0.05, height * 0.1, width * 0.15, height * 0.9)),
        ]
        names = ("left", "top", "right", "bottom")
        objects = [
            {
                "label": label,
                "index": number,
                "score": score,
                "box": dict(zip(names, map(round, box), strict=True)),
            }
            for number, (label, score, box) in enumerate(boxes)
        ]
        result = {"objects": objects, "width": width, "height": height}
        if self._shape == "parts":
            return Results(result, mask=_mask(width, height), large=["x" * 100_000])
        return result


def _mask(width: int, height: int) -> Image.Image:
    """Return a mask with class 8 in a rectangle, class 15 in a corner, and class 0 elsewhere."""
    mask = Image.new("P", (width, height), 0)
    mask.paste(8, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    mask.paste(15, (0, 0, width // 8, height // 8))
    mask.putpalette([value for number in range(256) for value in (number, 0, 0)])
    return mask


def _tone() -> bytes:
    """Return half a second of a tone as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        samples = (round(20000 * math.sin(at * 440 * math.tau / 8000)) for at in range(4000))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return file.getvalue()
