"""A ResNet-18 for the benchmarks.

The weights are random, because the speed of the model does not depend on the weights.
"""

from typing import ClassVar

import numpy as np
import torch
import torchvision
from PIL.Image import Image, Resampling

from worker.models import Accepts
from worker.models.network import Network

_SIDE_PIXELS = 224
_MIDDLE_SHARE = _SIDE_PIXELS / 256
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Infer:
    """A model of Loosely with an untrained ResNet-18.

    The result of a job is the most likely class of the picture, and the score of this class.
    """

    accepts: ClassVar[Accepts] = "image"

    def __init__(self, precision: str = "float32", compiler: str = "") -> None:
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None)
        self._network = Network(network, precision=precision, compiler=compiler)
        self([self.sample()])

    def sample(self) -> torch.Tensor:
        """Return a tensor of zeros in the format that `preprocess` returns."""
        return torch.zeros(3, _SIDE_PIXELS, _SIDE_PIXELS)

    def preprocess(self, item: Image) -> torch.Tensor:
        """Return the middle square of the picture as a float32 tensor of shape (3, 224, 224)."""
        side = min(item.size) * _MIDDLE_SHARE
        left, top = (item.width - side) / 2, (item.height - side) / 2
        box = (left, top, left + side, top + side)
        square = item.resize((_SIDE_PIXELS, _SIDE_PIXELS), Resampling.BILINEAR, box=box)
        values = (np.asarray(square, dtype=np.float32) / 255 - _MEAN) / _DEVIATION
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return self._network.stage(pixels)

    def __call__(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run one forward pass over the whole batch, and return the class scores of each item."""
        return list(self._network(batch))

    def postprocess(self, output: torch.Tensor) -> dict[str, object]:
        """Return the index of the most likely class, and its score."""
        score, index = output.softmax(dim=0).max(dim=0)
        return {"index": int(index), "score": round(float(score), 6)}
