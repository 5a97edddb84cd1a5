"""What the production worker holds for a type: judgements on annotations, as typing 3.6 saw them.

Newer spellings fall through on purpose: `list[int]` and `X | None` are no types to it, so a
function that uses them on a bound parameter does not load in Azure, nor here.
"""

import collections.abc
import typing
from typing import Any, ClassVar, Generic, Union

_GenericAlias: Any = type(typing.List[int])  # noqa: UP006 - the class itself is private
_SpecialGenericAlias: Any = type(typing.List)  # noqa: UP006 - as above
_NOT_GENERIC = (Union, tuple, ClassVar, collections.abc.Callable)


def is_generic(annotation: Any) -> bool:
    """Tell whether the annotation is a generic of `typing`; Union, Tuple, Callable are none."""
    if isinstance(annotation, type):
        return issubclass(annotation, Generic)
    return (
        isinstance(annotation, (_GenericAlias, _SpecialGenericAlias))
        and annotation.__origin__ not in _NOT_GENERIC
    )


def is_out(annotation: Any) -> bool:
    """Tell whether the annotation is azure.functions.Out, subscripted or not."""
    origin = annotation.__origin__ if isinstance(annotation, _GenericAlias) else annotation
    return isinstance(origin, type) and origin.__name__ == "Out"


def out_arguments(annotation: Any) -> tuple[Any, ...]:
    """Return what Out[...] is subscripted with."""
    return typing.get_args(annotation)
