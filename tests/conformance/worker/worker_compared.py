"""A model with two inputs, which returns the lengths of both inputs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from worker.models import Accepts, Input


class Infer:
    """A model that returns the lengths of its two inputs."""

    accepts: ClassVar[Accepts] = "json"

    def __call__(self, first: Any, *, other: Annotated[Any, Input("json")]) -> list[int]:
        return [len(first), len(other)]
