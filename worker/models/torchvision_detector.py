"""Any of torchvision's detectors, by name, with a state dict from blob storage.

    weights = "blob:weights/fasterrcnn.pth"
    options = {architecture = "fasterrcnn_resnet50_fpn", min_score = 0.5}

For weights of one's own, `labels` are the classes' names by commas, the background first. Another
`precision` is that of the backbone, which has most of the work.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL.Image import Image, Resampling
from torchvision import models
from torchvision.transforms.functional import pil_to_tensor

from worker.models import Accepts, Weights
from worker.models.network import Network
from worker.models.published import build, names, recipe

# The networks scale to about this themselves: done before, a large picture costs no more memory
# than a small one, and every picture of a batch about the same.
_MAX_SIDE_PIXELS = 1333
_MAX_OBJECTS = 100


@dataclass(frozen=True, slots=True)
class _Picture:
    """`pixels` of shape (3, height, width) from 0 to 1, made smaller by `scale`."""

    pixels: torch.Tensor
    scale: float
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Found:
    """The boxes of one picture, as corners in its own pixels."""

    boxes: list[list[float]]
    labels: list[int]
    scores: list[float]
    size: tuple[int, int]


class Infer:
    """Answers with `objects`: label, index, score and box of each, best first."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(
        self,
        weights: Weights,
        architecture: str,
        labels: str = "",
        min_score: float = 0.5,
        precision: str = "float32",
    ) -> None:
        self._names = names(labels, recipe(architecture, weights.sha256))
        network = build(
            models.detection,
            architecture,
            weights_backbone=None,
            num_classes=len(self._names),
        )
        self._min_score = min_score
        # Boxes in half precision would lose whole pixels, and of high classes all their places.
        self._network = Network(weights.load_into(network), precision=precision, part="backbone")

    def sample(self) -> _Picture:
        """A picture as `preprocess` makes it, of the largest size."""
        side = _MAX_SIDE_PIXELS
        return _Picture(torch.zeros(3, side * 3 // 4, side), 1.0, (side, side * 3 // 4))

    def preprocess(self, item: Image) -> _Picture:
        """Make large pictures smaller; the network does the rest."""
        scale = min(1.0, _MAX_SIDE_PIXELS / max(item.size))
        size = (max(1, round(item.width * scale)), max(1, round(item.height * scale)))
        picture = item if scale == 1.0 else item.resize(size, Resampling.BILINEAR)
        return _Picture(self._network.stage(pil_to_tensor(picture) / 255), scale, item.size)

    def __call__(self, batch: list[_Picture]) -> list[_Found]:
        """One pass over pictures of any sizes."""
        found = self._network.each([picture.pixels for picture in batch])
        return [
            _Found(
                (each["boxes"] / picture.scale).tolist(),
                each["labels"].tolist(),
                each["scores"].tolist(),
                picture.size,
            )
            for picture, each in zip(batch, found, strict=True)
        ]

    def postprocess(self, output: _Found) -> dict[str, object]:
        """Those that are likely enough, within the picture."""
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


def _corners(box: list[float], width: int, height: int) -> dict[str, float]:
    left, top, right, bottom = box
    return {
        "left": round(max(0.0, left), 1),
        "top": round(max(0.0, top), 1),
        "right": round(min(float(width), right), 1),
        "bottom": round(min(float(height), bottom), 1),
    }
