"""A model that consists of one linear layer."""

import numpy as np
import torch
from torch import Tensor, nn

from worker.models import InvalidInput, Weights
from worker.models.network import Network


class Infer:
    """Returns three scores for an array of four numbers."""

    def __init__(self, weights: Weights) -> None:
        self._network = Network(weights.load_into(nn.Linear(4, 3)))

    def preprocess(self, item: np.ndarray) -> Tensor:
        if item.shape != (4,):
            raise InvalidInput(f"expected 4 numbers, got an array of shape {item.shape}")
        return self._network.stage(torch.from_numpy(item.astype(np.float32)))

    def __call__(self, batch: list[Tensor]) -> list[Tensor]:
        return list(self._network(batch))

    def postprocess(self, output: Tensor) -> dict[str, object]:
        return {"scores": output.tolist()}
