"""A model that measures how loud a recording is."""

from typing import ClassVar

import numpy as np

from worker.models import Audio


class Infer:
    """Returns the root mean square of a recording's samples, and the duration in seconds."""

    sample_rate: ClassVar[int] = 16_000

    def __call__(self, audio: Audio) -> dict[str, float]:
        return {
            "loudness": float(np.sqrt(np.mean(audio.samples**2))),
            "seconds": len(audio.samples) / audio.sample_rate,
        }
