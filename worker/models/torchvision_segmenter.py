"""Any of torchvision's semantic segmenters, by name, with a state dict from blob storage.

    result_media_type = "image/png"
    weights = "blob:weights/deeplabv3.pth"
    options = {architecture = "deeplabv3_resnet50"}

For weights of one's own, `classes` is how many there are, the background among them.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from torchvision import models

from worker.models import Accepts, Weights
from worker.models.network import Network
from worker.models.published import build, recipe

_AUXILIARY = "aux_classifier."


@dataclass(frozen=True, slots=True)
class _Picture:
    """`pixels` are normalised, of shape (3, height, width); `size` is the picture's own."""

    pixels: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Mask:
    """`classes` are uint8 of shape (height, width)."""

    classes: torch.Tensor
    size: tuple[int, int]


class Infer:
    """Answers with a PNG of the picture's size: each pixel is the number of its class.

    A palette shows them in colours; who reads the numbers need not care.
    """

    accepts: ClassVar[Accepts] = "image"

    def __init__(
        self,
        weights: Weights,
        architecture: str,
        classes: int = 0,
        precision: str = "float32",
        compiler: str = "",
    ) -> None:
        entry = recipe(architecture, weights.sha256)
        state = weights.state_dict()
        options: dict[str, Any] = {"num_classes": classes or len(entry.meta["categories"])}
        if any(name.startswith(_AUXILIARY) for name in state):
            # A second head that helped in training: it is in the weights, and not used here.
            options["aux_loss"] = True
        network = build(models.segmentation, architecture, weights_backbone=None, **options)
        self._transforms = entry.transforms()
        self._palette = palette()
        module = _Classes(weights.load_into(network, state))
        self._network = Network(module, precision=precision, compiler=compiler)

    def sample(self) -> _Picture:
        """A picture as `preprocess` makes it."""
        side = self._transforms.resize_size[0]
        return _Picture(torch.zeros(3, side, side * 4 // 3), (side * 4 // 3, side))

    def cost(self, item: _Picture) -> float:
        """In pixels: pictures keep their proportions, and long ones are larger."""
        return float(item.pixels[0].numel())

    def preprocess(self, item: Image.Image) -> _Picture:
        """As the network was trained: the shorter side to one length, then normalise."""
        return _Picture(self._network.stage(self._transforms(item)), item.size)

    def __call__(self, batch: list[_Picture]) -> list[_Mask]:
        """One forward pass for each shape in the batch."""
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for number, picture in enumerate(batch):
            by_shape[picture.pixels.shape].append(number)
        masks: dict[int, _Mask] = {}
        for numbers in by_shape.values():
            found = self._network([batch[number].pixels for number in numbers])
            for number, classes in zip(numbers, found, strict=True):
                masks[number] = _Mask(classes, batch[number].size)
        return [masks[number] for number in range(len(batch))]

    def postprocess(self, output: _Mask) -> Image.Image:
        """The mask in the size of the picture."""
        mask = Image.fromarray(output.classes.numpy()).resize(output.size, Image.Resampling.NEAREST)
        mask.putpalette(self._palette)
        return mask


class _Classes(nn.Module):
    """A segmenter that gives the best class of each pixel: a byte, not a score for each class."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(batch, 3, height, width) to (batch, height, width)."""
        scores: torch.Tensor = self._network(pictures)["out"]
        return scores.argmax(dim=1).to(torch.uint8)


def palette() -> bytes:
    """Red, green and blue of 256 classes, as PASCAL VOC numbers them: neighbours look different.

    Three bits of the number after another go to the three colours, the lowest to their highest.
    """
    colours = bytearray()
    for number in range(256):
        for colour in range(3):
            bits = (number >> (3 * place + colour) & 1 for place in range(3))
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return bytes(colours)
