"""An item model that emits a chunk whenever the test creates a file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from worker.models import Accepts, Context


class Infer:
    """A model that emits the `chunks` of its input, and returns `result` or their concatenation.

    It emits a chunk when the test has created `chunk-1`, `chunk-2` and so on in the input's folder.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def __call__(self, item: bytes, context: Context) -> Iterator[Any]:
        task: dict[str, Any] = json.loads(item)
        for number, chunk in enumerate(task["chunks"], 1):
            while not (Path(task["folder"]) / f"chunk-{number}").exists():
                time.sleep(0.005)
                context.check()
            yield chunk
        return task.get("result")  # type: ignore[return-value]  # the generator's return value
