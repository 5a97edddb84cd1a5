"""A model that consists of one linear layer with three inputs and two outputs."""

import torch

from worker.models import Weights


class Infer:
    """An item model that returns two numbers for a list of three numbers."""

    def __init__(self, weights: Weights) -> None:
        self._network = weights.load_into(torch.nn.Linear(3, 2))

    def __call__(self, item: list[float]) -> list[float]:
        return [round(value, 4) for value in self._network(torch.tensor(item)).tolist()]
