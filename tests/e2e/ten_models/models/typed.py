"""A model with one parameter of each type that a parameter can have."""

from typing import Annotated, Any, Literal

from worker.models import Range


class Infer:
    """Returns its input, together with the values of all its parameters."""

    def __call__(
        self,
        item: Any,
        *,
        name: str,
        flag: bool = False,
        count: Annotated[int, Range(1, 10), "How many."] = 3,
        share: Annotated[float, Range(0, 1)] = 0.5,
        order: Literal["up", "down"] = "up",
        numbers: list[int] | None = None,
    ) -> list[object]:
        return [item, name, flag, count, share, order, numbers]
