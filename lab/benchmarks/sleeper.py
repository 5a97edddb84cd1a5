"""A model that needs some seconds for a batch, however many jobs are in the batch."""

import time
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """Waits as long as the first input of a batch says, in seconds."""

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> float:
        """Return the number of seconds in the input."""
        return float(item)

    def __call__(self, batch: list[float]) -> list[dict[str, float]]:
        """Wait, and return the number of seconds for each job."""
        time.sleep(batch[0])
        return [{"seconds": seconds} for seconds in batch]
