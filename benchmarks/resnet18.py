"""ResNet-18 for the benchmarks: seeded weights, since its speed does not depend on them."""

from typing import ClassVar

import numpy as np
import torch
import torchvision
from PIL.Image import Image, Resampling

from worker.models import Accepts

_SIDE_PIXELS = 224
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Infer:
    """Answers with the most likely class and its score, of a network that has learned nothing."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)
        self([torch.zeros(3, _SIDE_PIXELS, _SIDE_PIXELS)])

    def preprocess(self, item: Image) -> torch.Tensor:
        """Scale the middle square; float32 of shape (3, 224, 224)."""
        side = min(item.size) * 224 / 256
        left, top = (item.width - side) / 2, (item.height - side) / 2
        box = (left, top, left + side, top + side)
        square = item.resize((_SIDE_PIXELS, _SIDE_PIXELS), Resampling.BILINEAR, box=box)
        values = (np.asarray(square, dtype=np.float32) / 255 - _MEAN) / _DEVIATION
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    @torch.inference_mode()
    def __call__(self, batch: list[torch.Tensor]) -> list[dict[str, object]]:
        """One forward pass over the whole batch."""
        pictures = torch.stack(batch).to(self._device, memory_format=torch.channels_last)
        scores, indices = self._network(pictures).softmax(dim=1).max(dim=1)
        return [
            {"index": index, "score": round(score, 6)}
            for score, index in zip(scores.tolist(), indices.tolist(), strict=True)
        ]
