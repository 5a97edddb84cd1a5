"""A batch model that emits its inputs, and fails on each batch with the input `bad`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from worker.models import Accepts, Context


class Infer:
    accepts: ClassVar[Accepts] = "json"

    def preprocess(self, item: Any) -> Any:
        return item

    def __call__(self, batch: list[Any], contexts: list[Context]) -> Iterator[list[Any]]:
        yield batch
        if any(item["say"] == "bad" for item in batch):
            raise RuntimeError("the input is bad")
