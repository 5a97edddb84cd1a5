"""A model with two JSON inputs, which returns the length of each input."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from worker.models import Accepts, Input


class Infer:
    """Returns the lengths of the two inputs, as a list of two numbers."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, first: Any, *, other: Annotated[Any, Input("json")]) -> list[int]:
        return [len(first), len(other)]
