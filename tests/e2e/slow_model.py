"""A long-running model that waits before each of its steps until the test creates a file."""

import json
import time
from pathlib import Path
from typing import ClassVar

from worker.models import Accepts, Context


class Infer:
    """A model that runs until the test lets it end.

    It creates the file `running` in the input's folder. It ends each step when the test creates
    `step-1`, `step-2` and so on there. The result is the number of steps.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> dict[str, object]:
        found: dict[str, object] = json.loads(item)
        return found

    def __call__(
        self, batch: list[dict[str, object]], contexts: list[Context]
    ) -> list[dict[str, object]]:
        return [self._run(task, context) for task, context in zip(batch, contexts, strict=True)]

    def _run(self, task: dict[str, object], context: Context) -> dict[str, object]:
        folder, steps = Path(str(task["folder"])), int(str(task["steps"]))
        (folder / "running").touch()
        for step in range(1, steps + 1):
            while not (folder / f"step-{step}").exists():
                time.sleep(0.01)
                context.check()
            context.progress(step / steps, f"step {step} of {steps}")
        return {"steps": steps}
