"""The class `Input`, which declares a named input of a model in a type hint."""

from dataclasses import dataclass
from typing import get_args

from worker.inputs.opened import Accepts


@dataclass(frozen=True, slots=True)
class Input:
    """Declares that a keyword-only argument is a named input, and not a parameter.

    Use it in the type hint of the argument: `Annotated[str, Input("text")]`. For the types
    `Image`, `Audio`, `bytes` and `ndarray`, no `Input` is needed.
    """

    accepts: Accepts

    def __post_init__(self) -> None:
        known = [kind for kind in get_args(Accepts) if kind != "file"]
        if self.accepts not in known:
            raise ValueError(
                f"a named input cannot be {self.accepts!r}; expected one of {', '.join(known)}"
            )
