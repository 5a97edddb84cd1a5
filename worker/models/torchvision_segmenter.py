"""Run any semantic segmentation network of torchvision (docs/how-to/models.md).

For your own weights, set the option `classes` to the number of classes, with the background.
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
from worker.models.published import build, find_weights_entry

_AUXILIARY = "aux_classifier."


@dataclass(frozen=True, slots=True)
class _Picture:
    """A normalised image of shape (3, height, width), and the original width and height."""

    pixels: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Mask:
    """The class number of each pixel, as uint8 of shape (height, width), and the final size."""

    classes: torch.Tensor
    size: tuple[int, int]


class Infer:
    """Segments images. The result is a PNG in which the value of each pixel is its class number.

    The PNG has the size of the image and a palette, so that viewers show the classes as colours.
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
        entry = find_weights_entry(architecture, weights.sha256)
        state = weights.state_dict()
        options: dict[str, Any] = {"num_classes": classes or len(entry.meta["categories"])}
        if any(name.startswith(_AUXILIARY) for name in state):
            # The weights contain a second head, which helped in training and is not used here.
            options["aux_loss"] = True
        network = build(models.segmentation, architecture, weights_backbone=None, **options)
        self._transforms = entry.transforms()
        self._palette = palette()
        module = _Classes(weights.load_into(network, state))
        self._network = Network(module, precision=precision, compiler=compiler)

    def sample(self) -> _Picture:
        """Return an image of zeros in the format that `preprocess` returns."""
        side = self._transforms.resize_size[0]
        return _Picture(torch.zeros(3, side, side * 4 // 3), (side * 4 // 3, side))

    def cost(self, item: _Picture) -> float:
        """Return the number of pixels of a prepared image, as a measure of its size."""
        return float(item.pixels[0].numel())

    def preprocess(self, item: Image.Image) -> _Picture:
        """Scale the shorter side and normalise the pixels, as during the network's training."""
        return _Picture(self._network.stage(self._transforms(item)), item.size)

    def __call__(self, batch: list[_Picture]) -> list[_Mask]:
        """Return the mask of each image. All images of the same shape run in one forward pass."""
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
        """Return the mask as an image that has the size of the original image."""
        mask = Image.fromarray(output.classes.numpy()).resize(output.size, Image.Resampling.NEAREST)
        mask.putpalette(self._palette)
        return mask


class _Classes(nn.Module):
    """A network that returns only the most likely class of each pixel, instead of all scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the most likely class of each pixel, as uint8 of shape (batch, height, width)."""
        scores: torch.Tensor = self._network(pictures)["out"]
        return scores.argmax(dim=1).to(torch.uint8)


def palette() -> bytes:
    """Return the palette of PASCAL VOC: red, green and blue for each of 256 class numbers."""
    colours = bytearray()
    for number in range(256):
        for colour in range(3):
            bits = (number >> (3 * position + colour) & 1 for position in range(3))
            colours.append(sum(bit << (7 - position) for position, bit in enumerate(bits)))
    return bytes(colours)
