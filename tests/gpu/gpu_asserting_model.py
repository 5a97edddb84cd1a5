"""A model that causes a CUDA error on one input: an index out of bounds.

After such an error, the process can no longer use the GPU.
"""

from typing import ClassVar

import torch

from worker.models import Accepts

LOSES_THE_DEVICE = b"lose the device"


class Infer:
    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self) -> None:
        self._values = torch.arange(4, device="cuda")

    def preprocess(self, item: bytes) -> int:
        return 10**6 if item == LOSES_THE_DEVICE else len(item) % 4

    def __call__(self, batch: list[int]) -> list[dict[str, object]]:
        indices = torch.tensor(batch, device="cuda")
        return [{"value": value} for value in self._values[indices].tolist()]
