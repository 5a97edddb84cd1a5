"""Read the named inputs and named results of a model in the catalogue.

A model has one input and one result. Each further input or result has a name and a table:

    inputs.mask = {media_types = ["image/png"], max_pixels = 4000000}
    results.mask = {media_type = "image/png"}
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from contract import media
from contract.errors import CatalogueError
from contract.messages import is_payload_name

MAX_NAMED: Final = 4
"""How many named inputs, and how many named results, a model may have."""

MAX_RESULT_BYTES: Final = 64 * 1024 * 1024
"""The largest size in bytes of all results of a job together."""


@dataclass(frozen=True, slots=True)
class NamedInput:
    """An input that a model has in addition to its first input. Callers may omit it if `optional`.

    `max_input_bytes` limits an input in an HTTP request. Its default is the model's.
    `max_upload_bytes` limits an upload. Its default is `max_input_bytes` if the catalogue sets it
    for the input or for the model, otherwise 10 MiB. The default of `max_pixels` is 50 million if
    all media types are images, otherwise 0, which means no limit.
    """

    media_types: tuple[str, ...]
    description: str = ""
    optional: bool = False
    max_input_bytes: int = 0
    max_upload_bytes: int = 0
    max_pixels: int = 0


@dataclass(frozen=True, slots=True)
class NamedResult:
    """A result that a model has in addition to its first result. It may omit it if `optional`."""

    media_type: str
    description: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    """Whether tables are of inputs or of results, with an example and names that are not allowed.

    The fields of `fields_of` are the keys of a table.
    """

    name: str
    fields_of: type[Any]
    example: str
    reserved: frozenset[str]


_INPUT: Final = _Kind(
    "input",
    NamedInput,
    'media_types = ["image/png"]',
    # Names with another meaning in a form or a JSON body.
    frozenset(
        {"file", "input", "inputs", "parameters", "context", "contexts", "upload", "url"}
        | {"deadline_seconds", "label", "priority", "webhook", "webhook_url"}
    ),
)
_RESULT: Final = _Kind(
    "result",
    NamedResult,
    'media_type = "image/png"',
    # Names with another meaning in the Open Inference Protocol's output tensors or in `Results`.
    frozenset({"first", "named", "result", "results"}),
)


def read_inputs(path: str, value: Any, defaults: Mapping[str, int]) -> Mapping[str, NamedInput]:
    """Return the named inputs at the position `path` of the catalogue, or raise CatalogueError."""
    _check_tables(path, value, _INPUT)
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


def read_results(path: str, value: Any) -> Mapping[str, NamedResult]:
    """Return the named results at the position `path` of the catalogue, or raise CatalogueError."""
    _check_tables(path, value, _RESULT)
    found = {name: NamedResult(**table) for name, table in value.items()}
    for name, each in found.items():
        if not media.is_media_type(each.media_type):
            raise CatalogueError(
                f"{path}.{name}.media_type: expected a media type such as image/png, found "
                f"{each.media_type!r:.100}"
            )
    return MappingProxyType(found)


def _check_tables(path: str, value: Any, kind: _Kind) -> None:
    """Check the names of all tables, and the keys and the types of the values in each table."""
    if not isinstance(value, dict):
        raise CatalogueError(f"{path}: expected a table, for example {{mask = {{{kind.example}}}}}")
    if len(value) > MAX_NAMED:
        raise CatalogueError(
            f"{path}: expected at most {MAX_NAMED} named {kind.name}s, found {len(value)}"
        )
    for name, table in value.items():
        if not is_payload_name(name) or name in kind.reserved:
            raise CatalogueError(
                f"{path}.{name}: the name must have 1 to 32 lower-case letters, digits and "
                "underscores, begin with a letter, and be none of "
                f"{', '.join(sorted(kind.reserved))}"
            )
        _check_table(f"{path}.{name}", table, kind)


def _check_table(path: str, table: Any, kind: _Kind) -> None:
    if not isinstance(table, dict):
        raise CatalogueError(f"{path}: expected a table, for example {{{kind.example}}}")
    known = {each.name: each for each in fields(kind.fields_of)}
    for key, value in table.items():
        if key not in known:
            raise CatalogueError(f"{path}.{key}: a named {kind.name} has no such key; remove it")
        if not _fits(key, value):
            raise CatalogueError(
                f"{path}.{key}: the value {value!r:.100} is not valid for this key; a valid table "
                f"is, for example, {{{kind.example}}}"
            )
    for key, each in known.items():
        if key not in table and each.default is MISSING:
            raise CatalogueError(f"{path}.{key}: the key is missing; add it")


def _fits(key: str, value: Any) -> bool:
    match key:
        case "media_types":
            is_list = isinstance(value, list) and bool(value)
            return is_list and all(isinstance(each, str) and each for each in value)
        case "media_type" | "description":
            return isinstance(value, str)
        case "optional":
            return isinstance(value, bool)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
