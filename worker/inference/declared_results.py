"""The named results that a model's class declares in the type hint of what it returns.

    class Found(Results):
        mask: Annotated[Image, "The pixels of all objects."]
        largest: Image | None

    class Infer:
        def __call__(self, image: Image) -> Found: ...

The gateway does not have the model's code, but must know the results. Therefore the model's
catalogue entry repeats the declaration of the results, as `loosely models describe NAME` prints it.
If the entry and the class differ, the model is not loaded. If the class declares no results, the
results are checked only when the model returns them.
"""

import inspect
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from contract import media
from contract.catalogue import ModelEntry
from worker.errors import ModelUnfit
from worker.models import Results

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
        """The media type that is proposed for the result.

        `loosely models describe` prints this type if the model's catalogue entry does not contain
        the result.
        """
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

    Raises:
        ModelUnfit: A type hint contains a name that does not exist at run time.
    """
    found = _returned_type(infer)
    return {} if found is None else _read_class(found)


def check_declared_results(model: ModelEntry, infer: Any) -> None:
    """Check that the catalogue entry has the named results that the model's class declares.

    Raises:
        ModelUnfit: The results of the entry and of the class differ, or a type hint contains a name
            that does not exist at run time.
    """
    try:
        found = _returned_type(infer)
    except ModelUnfit:
        if model.results:
            raise
        # A model without named results needs no type hint.
        return
    declared = {} if found is None else _read_class(found)
    if not declared:
        return
    optional = {name: each.optional for name, each in declared.items()}
    if optional != {name: each.optional for name, each in model.results.items()}:
        raise ModelUnfit(
            f"{model.name}.results: the key does not describe what {model.implementation} returns; "
            f"replace the key with what `loosely models describe {model.name}` prints"
        )
    for name, each in declared.items():
        media_type = model.results[name].media_type
        if not each.allows(media_type):
            is_any = each.media_types == ("*/*",)
            expected = f"any type except {media.JSON}" if is_any else " or ".join(each.media_types)
            raise ModelUnfit(
                f"{model.name}.results.{name}.media_type: the model does not return {media_type}; "
                f"expected {expected}"
            )


def _returned_type(infer: Any) -> type[Results] | None:
    """Return the subclass of `Results` in the type hint of what the model returns.

    Return None if there is no type hint, or if the type hint is not a subclass of `Results`.

    Raises:
        ModelUnfit: A type hint of the model's method contains a name that does not exist at run
            time.
    """
    method = getattr(infer, "postprocess", None)
    if method is None and inspect.isroutine(infer):
        method = infer
    elif method is None:
        method = (infer if isinstance(infer, type) else type(infer)).__call__
    try:
        hint = typing.get_type_hints(method).get("return")
    except NameError as error:
        raise _unknown_name(method, error) from None
    except Exception:  # noqa: BLE001  a hint may name anything, and need not exist at run time
        return None
    if typing.get_origin(hint) in (list, Sequence):
        (hint,) = typing.get_args(hint)  # what a batch model returns for each item
    is_declared = isinstance(hint, type) and issubclass(hint, Results) and hint is not Results
    return hint if is_declared else None


def _read_class(declaring: type[Results]) -> dict[str, ResultDeclaration]:
    """Return the named results that a subclass of `Results` declares, by name.

    Raises:
        ModelUnfit: A type hint contains a name that does not exist at run time.
    """
    try:
        hints = typing.get_type_hints(declaring, include_extras=True)
    except NameError as error:
        raise _unknown_name(declaring, error) from None
    return {
        name: _read_hint(hint) for name, hint in hints.items() if name not in {"first", "named"}
    }


def _unknown_name(owner: Any, error: NameError) -> ModelUnfit:
    """Return the error for a type hint that contains a name which does not exist at run time.

    `owner` is the class or method to which the type hint belongs. `error` contains the name.
    """
    path = getattr(owner, "__qualname__", repr(owner))
    return ModelUnfit(
        f"{path}: a type hint contains {error.name}, which does not exist when the model is "
        f"loaded; import {error.name} outside `if TYPE_CHECKING`"
    )


def _read_hint(hint: Any) -> ResultDeclaration:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        found = _read_hint(arguments[0])
        texts = [each for each in arguments[1:] if isinstance(each, str)]
        return replace(found, description=texts[0]) if texts else found
    if origin in (typing.Union, types.UnionType):
        members = [each for each in arguments if each is not type(None)]
        found = _read_hint(members[0] if len(members) == 1 else Any)
        return replace(found, optional=found.optional or len(members) < len(arguments))
    return ResultDeclaration(_media_types(hint), False, "")


def _media_types(kind: Any) -> tuple[str, ...]:
    if kind is Any:
        return ()
    if kind is Image.Image:
        return _PICTURES
    if kind is bytes:
        return ("*/*",)
    return ("text/*", media.JSON) if kind is str else (media.JSON,)
