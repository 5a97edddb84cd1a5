"""A long-running model that reports its progress."""

import time
from typing import Any

from worker.models import Context


class Infer:
    """Counts from 1 to the input's number `steps`, ten steps a second, and returns `steps`."""

    def __call__(self, item: Any, context: Context) -> dict[str, int]:
        steps = item["steps"]
        for step in range(1, steps + 1):
            time.sleep(0.1)
            context.progress(step / steps, f"step {step}")
        return {"steps": steps}
