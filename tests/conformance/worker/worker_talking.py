"""A model whose jobs emit numbers until the test ends them."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from worker.models import Accepts, Context


class Infer:
    """Runs a job with the input `{"folder": …}` until the folder contains the file `gate`."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, item: dict[str, str], context: Context) -> Any:
        folder = Path(item["folder"])
        try:
            for number in count():
                if (folder / "gate").exists():
                    return {"process": os.getpid(), "chunks": number}
                context.progress(message=f"{number} chunks")
                context.emit(number)
                time.sleep(0.01)
        except Exception as error:
            (folder / "stopped").write_text(f"{os.getpid()} {type(error).__name__}")
            raise
