"""Run any object detector of torchvision (docs/how-to/models.md).

For your own weights, set the option `labels` to the names of the classes, separated by commas. The
first name is the name of the background. The option `precision` applies only to the backbone, which
needs most of the computing time.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image, Resampling
from torchvision import models
from torchvision.transforms.functional import pil_to_tensor

from worker.models import Accepts, Weights
from worker.models.network import Network
from worker.models.published import build, find_weights_entry, names

# The networks scale images to about this size themselves. Large images are scaled before, so that
# they need no more memory than small images, and all images of a batch need about the same.
_MAX_SIDE_PIXELS = 1333
_MAX_OBJECTS = 100


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image of shape (3, height, width) with values from 0 to 1, scaled from `size`."""

    pixels: torch.Tensor
    scale: float
    size: tuple[int, int]

    @property
    def is_tall(self) -> bool:
        return self.size[1] > self.size[0]


@dataclass(frozen=True, slots=True)
class _Found:
    """The objects in one image: boxes from left, top to right, bottom in pixels of the image."""

    boxes: list[list[float]]
    labels: list[int]
    scores: list[float]
    size: tuple[int, int]


class Infer:
    """Detects objects in images. The result lists label, index, score and box of each object."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(
        self,
        weights: Weights,
        architecture: str,
        labels: str = "",
        min_score: float = 0.5,
        precision: str = "float32",
    ) -> None:
        self._names = names(labels, find_weights_entry(architecture, weights.sha256))
        network = build(
            models.detection,
            architecture,
            weights_backbone=None,
            num_classes=len(self._names),
        )
        sides: Any = network.transform
        self._short_side_pixels = round(_MAX_SIDE_PIXELS * min(sides.min_size) / sides.max_size)
        self._min_score = min_score
        # In half precision, boxes would be wrong by whole pixels, and by more for high class
        # numbers.
        self._network = Network(weights.load_into(network), precision=precision, part="backbone")

    def sample(self) -> _Picture:
        """Return a black image with the shape that needs the most memory."""
        width, height = _MAX_SIDE_PIXELS, self._short_side_pixels
        return _Picture(torch.zeros(3, height, width), 1.0, (width, height))

    def preprocess(self, item: Image) -> _Picture:
        """Return the image, scaled down so that no side is longer than 1333 pixels."""
        scale = min(1.0, _MAX_SIDE_PIXELS / max(item.size))
        size = (max(1, round(item.width * scale)), max(1, round(item.height * scale)))
        picture = item if scale == 1.0 else item.resize(size, Resampling.BILINEAR)
        return _Picture(self._network.stage(pil_to_tensor(picture) / 255), scale, item.size)

    def __call__(self, batch: list[_Picture]) -> list[_Found]:
        """Find the objects in each image. Wide and tall ones, padded to squares, would be large."""
        found: dict[int, _Found] = {}
        for is_tall in (False, True):
            numbers = [at for at, picture in enumerate(batch) if picture.is_tall is is_tall]
            if numbers:
                each = self._network.each([batch[number].pixels for number in numbers])
                found |= {at: _found(batch[at], one) for at, one in zip(numbers, each, strict=True)}
        return [found[number] for number in range(len(batch))]

    def postprocess(self, output: _Found) -> dict[str, object]:
        """Return at most 100 objects whose score is at least `min_score`, clipped to the image."""
        width, height = output.size
        objects = [
            {
                "label": self._names[label],
                "index": label,
                "score": round(score, 4),
                "box": _corners(box, width, height),
            }
            for box, label, score in zip(output.boxes, output.labels, output.scores, strict=True)
            if score >= self._min_score
        ]
        return {"objects": objects[:_MAX_OBJECTS], "width": width, "height": height}


def _found(picture: _Picture, found: dict[str, torch.Tensor]) -> _Found:
    boxes = (found["boxes"] / picture.scale).tolist()
    return _Found(boxes, found["labels"].tolist(), found["scores"].tolist(), picture.size)


def _corners(box: list[float], width: int, height: int) -> dict[str, float]:
    left, top, right, bottom = box
    return {
        "left": round(max(0.0, left), 1),
        "top": round(max(0.0, top), 1),
        "right": round(min(float(width), right), 1),
        "bottom": round(min(float(height), bottom), 1),
    }
