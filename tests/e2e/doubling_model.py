"""A model that multiplies an array by the parameter `times`, which is 2 by default."""

import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from worker.models import Accepts


class Infer:
    """Multiplies an array by the parameter `times`, which is 2 by default."""

    accepts: ClassVar[Accepts] = "tensor"

    def __call__(self, tensor: Any, parameters: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        np.save(file, tensor * parameters.get("times", 2))
        return file.getvalue()
