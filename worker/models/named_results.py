"""The class `Results`, with which a model returns named results in addition to its result."""

from collections.abc import Mapping
from typing import Any


class Results:
    """The result of a model, and its named results.

    A model whose catalogue entry has named results returns this object:

        return Results({"objects": found}, mask=picture)

    A model may declare its named results in a subclass, which is the type hint of what the model
    returns. `None` in a type hint means that the model may omit the result:

        class Found(Results):
            mask: Annotated[Image, "The pixels of all objects."]
            largest: Image | None

    Attributes:
        first: The result.
        named: The named results by name. Do not change this mapping.
    """

    first: Any
    named: Mapping[str, Any]

    def __init__(self, first: Any, /, **named: Any) -> None:
        self.first = first
        self.named = named

    def __getattr__(self, name: str) -> Any:
        """Return the named result `name`. Raises AttributeError if there is no such result."""
        # An unpickled or copied object has no attributes at first.
        if name not in {"first", "named"} and name in self.named:
            return self.named[name]
        raise AttributeError(name)
