"""Run any classifier of torchvision (docs/how-to/models.md).

For your own weights, set the option `labels` to the names of the classes, separated by commas.
"""

from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torchvision import models

from worker.models import Accepts, Weights
from worker.models.network import Network, describe_classes
from worker.models.published import build, find_weights_entry, names

# The published weights of these two networks expect an additional scaling of the inputs.
_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


class Infer:
    """Classifies images. The result lists the five most likely classes, best class first."""

    accepts: ClassVar[Accepts] = "image"

    def __init__(
        self,
        weights: Weights,
        architecture: str,
        labels: str = "",
        precision: str = "float32",
        compiler: str = "",
    ) -> None:
        options = _OPTIONS.get(architecture, {})
        if labels:
            options = {**options, "num_classes": len(names(labels, None))}
        network = weights.load_into(build(models, architecture, **options))
        entry = find_weights_entry(architecture, weights.sha256)
        self._names = names(labels, entry)
        self._transforms = entry.transforms()
        self._network = Network(network, precision=precision, compiler=compiler)

    def sample(self) -> torch.Tensor:
        """Return an image of zeros in the format that `preprocess` returns."""
        side = self._transforms.crop_size[0]
        return torch.zeros(3, side, side)

    def preprocess(self, item: Image) -> torch.Tensor:
        """Resize the image, crop its centre and normalise its pixels, as during training."""
        return self._network.stage(self._transforms(item))

    def __call__(self, batch: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run one forward pass over the batch, and return the class scores of each image."""
        return list(self._network(batch))

    def postprocess(self, output: torch.Tensor) -> dict[str, object]:
        """Return label, index and score of the five most likely classes, best class first."""
        return describe_classes(output, self._names)
