"""The class `Input`, which declares a named input of a model in a type hint."""

from dataclasses import dataclass
from typing import get_args

from worker.inputs.opened import Accepts


@dataclass(frozen=True, slots=True)
class Input:
    """Declares that a keyword-only argument of a model's method receives a named input.

    Use this class in the type hint of the argument: `Annotated[str, Input("text")]`. Without
    `Input`, an argument of the type `str` receives a parameter of the job. Arguments of the types
    `Image`, `Audio`, `bytes` and `ndarray` always receive named inputs, so they need no `Input`.
    """

    accepts: Accepts

    def __post_init__(self) -> None:
        known = [kind for kind in get_args(Accepts) if kind != "file"]
        if self.accepts not in known:
            raise ValueError(
                f"a named input cannot accept {self.accepts!r}; expected one of {', '.join(known)}"
            )
