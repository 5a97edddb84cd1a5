"""The named results that a model's class declares in the type hint of what it returns.

    class Found(Results):
        mask: Annotated[Image, "The pixels of all objects."]
        largest: Image | None

    class Infer:
        def __call__(self, image: Image) -> Found: ...

The gateway must know the results without the model's code. Therefore the catalogue entry repeats
them as `loosely models describe NAME` prints them. A model whose entry differs from its declaration
is not loaded. A model without a declaration is checked only when it returns its results.
"""

import inspect
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from contract import media
from contract.catalogue import ModelEntry
from worker.errors import ModelUnfit
from worker.models.named_results import Results

_PICTURES = ("image/png", "image/jpeg", "image/webp")


@dataclass(frozen=True, slots=True)
class ResultDeclaration:
    """A named result that a model's class declares.

    Attributes:
        media_types: The media types that the result may have, the default first. `text/*` stands
            for all types of text, and `*/*` for all types except JSON. Empty if the type hint is
            `Any`, which allows all types.
        optional: Whether the model may omit the result.
        description: A sentence for callers; empty if the type hint contains no text.
    """

    media_types: tuple[str, ...]
    optional: bool
    description: str

    @property
    def default_media_type(self) -> str:
        """The media type of the result if the catalogue does not declare it yet."""
        if self.media_types == ("*/*",):
            return media.OCTET_STREAM
        return media.TEXT if "text/*" in self.media_types else (*self.media_types, media.JSON)[0]

    def allows(self, media_type: str) -> bool:
        """Return whether the result may have this media type."""
        if self.media_types == ("*/*",):
            return media_type != media.JSON
        is_text = "text/*" in self.media_types and media_type.startswith("text/")
        return not self.media_types or media_type in self.media_types or is_text


def read_declared_results(infer: Any) -> dict[str, ResultDeclaration]:
    """Return the named results that a model's class or its instance declares, by name.

    Empty if the type hint of what the model returns is not a subclass of `Results`.
    """
    found = _returned_type(infer)
    if found is None:
        return {}
    hints = typing.get_type_hints(found, include_extras=True)
    return {
        name: _read_hint(hint) for name, hint in hints.items() if name not in {"first", "named"}
    }


def check_declared_results(model: ModelEntry, infer: Any) -> None:
    """Check that the catalogue entry has the named results that the model's class declares.

    Raises:
        ModelUnfit: The results of the entry and of the class differ.
    """
    declared = read_declared_results(infer)
    if not declared:
        return
    optional = {name: each.optional for name, each in declared.items()}
    if optional != {name: each.optional for name, each in model.results.items()}:
        raise ModelUnfit(
            f"{model.name}.results: differs from what {model.implementation} returns; replace the "
            f"key by what `loosely models describe {model.name}` prints"
        )
    for name, each in declared.items():
        media_type = model.results[name].media_type
        if not each.allows(media_type):
            raise ModelUnfit(
                f"{model.name}.results.{name}.media_type: the model does not return {media_type}; "
                f"expected {' or '.join(each.media_types)}"
            )


def _returned_type(infer: Any) -> type[Results] | None:
    """Return the subclass of `Results` that the model returns; None if its hint is another one."""
    method = getattr(infer, "postprocess", None)
    if method is None and inspect.isroutine(infer):
        method = infer
    elif method is None:
        method = (infer if isinstance(infer, type) else type(infer)).__call__
    try:
        hint = typing.get_type_hints(method).get("return")
    except Exception:  # noqa: BLE001  a hint may name anything, and need not exist at run time
        return None
    if typing.get_origin(hint) in (list, Sequence):
        (hint,) = typing.get_args(hint)  # what a batch model returns for each item
    is_declared = isinstance(hint, type) and issubclass(hint, Results) and hint is not Results
    return hint if is_declared else None


def _read_hint(hint: Any) -> ResultDeclaration:
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    kind = typing.get_args(hint)[0] if notes else hint
    is_optional = False
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [each for each in typing.get_args(kind) if each is not type(None)]
        is_optional = len(members) < len(typing.get_args(kind))
        kind = members[0] if len(members) == 1 else Any
    description = next((each for each in notes if isinstance(each, str)), "")
    return ResultDeclaration(_media_types(kind), is_optional, description)


def _media_types(kind: Any) -> tuple[str, ...]:
    if kind is Any:
        return ()
    if kind is Image.Image:
        return _PICTURES
    if kind is bytes:
        return ("*/*",)
    return ("text/*", media.JSON) if kind is str else (media.JSON,)
