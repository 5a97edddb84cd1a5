"""The class `Range`, which sets the bounds of a model's parameter in a type hint."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value of a numeric parameter. None means that there is no limit.

    Use it in the type hint of a keyword-only argument: `Annotated[int, Range(1, 100)]`.
    """

    minimum: float | None = None
    maximum: float | None = None

    def as_keys(self) -> dict[str, Any]:
        """Return the bounds as keys of a JSON Schema."""
        keys = {"minimum": self.minimum, "maximum": self.maximum}
        return {key: value for key, value in keys.items() if value is not None}
