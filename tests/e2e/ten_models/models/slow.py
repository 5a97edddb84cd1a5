"""A model that runs long."""

import time
from typing import Any

from worker.models import Context


class Infer:
    """Counts to the number of the input."""

    def __call__(self, item: Any, context: Context) -> dict[str, int]:
        steps = item["steps"]
        for step in range(1, steps + 1):
            time.sleep(0.1)
            context.progress(step / steps, f"step {step}")
        return {"steps": steps}
