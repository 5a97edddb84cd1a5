"""A concurrent model, whose jobs say what they do."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any, ClassVar

from worker.models import Accepts, Cancelled, Context


class Infer:
    """Runs until the file `end` exists in the folder that the input names.

    It creates the file `running`, and `cancelled` when the job is stopped.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(self, closed: str = "") -> None:
        self._closed = closed
        self._count = 0

    async def __call__(self, item: bytes, context: Context) -> dict[str, int]:
        task: dict[str, Any] = json.loads(item)
        folder = Path(task["folder"])
        self._count += 1
        most = self._count
        (folder / "running").touch()
        try:
            while not (folder / "end").exists():
                await asyncio.sleep(0.01)
                most = max(most, self._count)
                context.progress(0.5)
        except (asyncio.CancelledError, Cancelled):
            (folder / "cancelled").write_text(str(time.time()))
            raise
        finally:
            self._count -= 1
        return {"most": most}

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._note_close()

    def _note_close(self) -> None:
        if self._closed:
            Path(self._closed).touch()
