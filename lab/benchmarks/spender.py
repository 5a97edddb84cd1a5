"""A model that uses the device as long as each input says, and writes down who used it."""

import time
from pathlib import Path
from typing import ClassVar

from worker.models import Accepts


class Infer:
    """A model whose inputs have the form `PATH TENANT SECONDS`.

    It waits SECONDS, and appends `TENANT BEGUN ENDED` to the file PATH, in seconds since 1970.
    """

    accepts: ClassVar[Accepts] = "bytes"

    def preprocess(self, item: bytes) -> tuple[str, str, float]:
        """Return the parts of the input."""
        path, tenant, seconds = item.decode().split()
        return path, tenant, float(seconds)

    def __call__(self, batch: list[tuple[str, str, float]]) -> list[str]:
        """Run the jobs of a batch one after the other."""
        for path, tenant, seconds in batch:
            begun_at = time.time()
            time.sleep(seconds)
            with Path(path).open("a", encoding="utf-8") as ran:
                ran.write(f"{tenant} {begun_at} {time.time()}\n")
        return [tenant for _, tenant, _ in batch]
