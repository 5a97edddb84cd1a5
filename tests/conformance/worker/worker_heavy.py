"""A model for tests of device memory."""

from __future__ import annotations

import json
import threading
from typing import Any, ClassVar

from worker.models import Accepts, InvalidInput

GIB = 1024**3
_ENTRY = """
[{name}]
description = "Needs as much memory as the entry says."
implementation = "tests.conformance.worker.worker_heavy"
media_types = ["application/json"]
deadline_seconds = 120
max_batch_size = {batch}
max_wait_ms = 20
lock_seconds = 5
options = {{ {options} }}
"""

_SHORT = "load_seconds = 0.05, run_seconds = 0.08"


def entry(name: str, batch: int, options: str) -> str:
    return _ENTRY.format(name=name, batch=batch, options=options)


CATALOGUE = "".join(
    entry(name, batch, options)
    for name, batch, options in (
        # The device has 8 GiB. The loaded models fit together, but not with a batch of each.
        ("three", 4, f"resident_bytes = {2 * GIB}, batch_bytes = {GIB}, {_SHORT}"),
        ("six", 4, f"resident_bytes = {5 * GIB}, batch_bytes = {GIB}, {_SHORT}"),
        # While a batch runs, the next one fills.
        ("picky", 16, f"resident_bytes = 0, fits = 8, {_SHORT}"),
    )
)

_PAUSE = threading.Event()


class Infer:
    """A batch model that returns the square of `n` for an input such as `{"n": 3}`."""

    accepts: ClassVar[Accepts] = "bytes"

    def __init__(
        self,
        resident_bytes: int,
        batch_bytes: int = 0,
        load_seconds: float = 0.0,
        run_seconds: float = 0.0,
        fits: int = 1000,
    ) -> None:
        self._resident_bytes = resident_bytes
        self._batch_bytes = batch_bytes
        self._run_seconds = run_seconds
        self._fits = fits
        _PAUSE.wait(load_seconds)

    def memory_bytes(self, cost: float) -> int:
        return self._resident_bytes + (self._batch_bytes if cost else 0)

    def sample(self) -> dict[str, Any]:
        return {"n": 0}

    def preprocess(self, item: bytes) -> dict[str, Any]:
        task: dict[str, Any] = json.loads(item)
        return task

    def __call__(self, batch: list[dict[str, Any]]) -> list[dict[str, int]]:
        if len(batch) > self._fits:
            raise MemoryError(f"{len(batch)} do not fit")
        for task in batch:
            if task.get("bad"):
                raise InvalidInput(f"{task['n']} is bad")
        _PAUSE.wait(self._run_seconds)
        return [{"square": task["n"] ** 2} for task in batch]
