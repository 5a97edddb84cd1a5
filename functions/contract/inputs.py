"""Read the named inputs of a model in the catalogue.

A model has one input, and may have further inputs, for example a mask in addition to a picture.
Each further input has a name and its own entry:

    inputs.mask = {media_types = ["image/png"], max_pixels = 4000000}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from contract.errors import CatalogueError
from contract.named_tables import NamedTableKind, check_named_tables

MAX_NAMED_INPUTS: Final = 4
"""How many named inputs a model may have in addition to its input."""

# Names with another meaning in a form or a JSON body.
_RESERVED: Final = frozenset(
    {"file", "input", "inputs", "parameters", "context", "contexts", "upload", "url"}
    | {"deadline_seconds", "label", "priority", "webhook", "webhook_url"}
)


@dataclass(frozen=True, slots=True)
class NamedInput:
    """An input that a model has in addition to its first input.

    Attributes:
        media_types: The media types that the model accepts as this input.
        description: A sentence for callers.
        optional: Whether callers may omit the input.
        max_input_bytes: The largest size in bytes of the input in an HTTP request. The default is
            the model's `max_input_bytes`.
        max_upload_bytes: The largest size in bytes of an upload. The default is `max_input_bytes`
            if the catalogue sets it for the input or for the model, otherwise 10 MiB.
        max_pixels: The largest number of pixels of a picture; 0 if pixels are not limited. The
            default is 50 million if all media types are images, otherwise 0.
    """

    media_types: tuple[str, ...]
    description: str = ""
    optional: bool = False
    max_input_bytes: int = 0
    max_upload_bytes: int = 0
    max_pixels: int = 0


def _fits(key: str, value: Any) -> bool:
    match key:
        case "media_types":
            is_list = isinstance(value, list) and bool(value)
            return is_list and all(isinstance(each, str) and each for each in value)
        case "description":
            return isinstance(value, str)
        case "optional":
            return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_KIND: Final = NamedTableKind(
    "input", NamedInput, 'media_types = ["image/png"]', MAX_NAMED_INPUTS, _RESERVED, _fits
)


def read_inputs(path: str, value: Any, defaults: Mapping[str, int]) -> Mapping[str, NamedInput]:
    """Return the named inputs of a model's entry by name.

    `path` is the position of the inputs in the catalogue, for the text of an error.
    `defaults` contains the default values of `max_input_bytes` and `max_upload_bytes`, and of
    `max_pixels` for pictures.
    Raises CatalogueError if an input is not valid.
    """
    check_named_tables(path, value, _KIND)
    found = {name: _read_input(f"{path}.{name}", each, defaults) for name, each in value.items()}
    return MappingProxyType(found)


def _read_input(path: str, table: dict[str, Any], defaults: Mapping[str, int]) -> NamedInput:
    media_types = tuple(table["media_types"])
    are_images = all(media_type.startswith("image/") for media_type in media_types)
    values = {
        "max_input_bytes": defaults["max_input_bytes"],
        "max_upload_bytes": table.get("max_input_bytes", defaults["max_upload_bytes"]),
        "max_pixels": defaults["max_pixels"] if are_images else 0,
        **table,
        "media_types": media_types,
    }
    found = NamedInput(**values)
    if found.max_input_bytes < 1:
        raise CatalogueError(f"{path}.max_input_bytes: expected at least 1, found 0")
    if found.max_input_bytes > found.max_upload_bytes:
        raise CatalogueError(
            f"{path}.max_upload_bytes: expected at least max_input_bytes, which is "
            f"{found.max_input_bytes}, found {found.max_upload_bytes}"
        )
    return found
