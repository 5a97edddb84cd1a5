"""Check the tables of named inputs and named results in the model catalogue.

A model's entry contains a table for each named input or result:

    inputs.mask = {media_types = ["image/png"]}
    results.mask = {media_type = "image/png"}
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any

from contract.errors import CatalogueError
from contract.messages import is_payload_name


@dataclass(frozen=True, slots=True)
class NamedTableKind:
    """What the tables of all named inputs, or of all named results, have in common.

    Attributes:
        name: `input` or `result`, for error messages.
        fields_of: The dataclass whose fields are the keys of a table. The first field is required.
        example: The content of a table, for error messages.
        max_count: How many named inputs or results a model may have.
        reserved: The names that are not allowed.
        fits: A function that gets a key and a value, and returns whether the value is valid.
    """

    name: str
    fields_of: type[Any]
    example: str
    max_count: int
    reserved: frozenset[str]
    fits: Callable[[str, Any], bool]


def check_named_tables(path: str, value: Any, kind: NamedTableKind) -> None:
    """Check the names of all tables, and the keys and the types of the values in each table.

    `value` is the value of the entry's key `inputs` or `results`. `path` is the position of this
    key in the catalogue, for the text of an error. Raises CatalogueError if a table is not valid.
    """
    if not isinstance(value, dict):
        raise CatalogueError(f"{path}: expected a table, for example {{mask = {{{kind.example}}}}}")
    if len(value) > kind.max_count:
        raise CatalogueError(
            f"{path}: expected at most {kind.max_count} named {kind.name}s, found {len(value)}"
        )
    for name, table in value.items():
        if not is_payload_name(name) or name in kind.reserved:
            raise CatalogueError(
                f"{path}.{name}: the name must have 1 to 32 lower-case letters, digits and "
                "underscores, begin with a letter, and be none of "
                f"{', '.join(sorted(kind.reserved))}"
            )
        _check_table(f"{path}.{name}", table, kind)


def _check_table(path: str, table: Any, kind: NamedTableKind) -> None:
    if not isinstance(table, dict):
        raise CatalogueError(f"{path}: expected a table, for example {{{kind.example}}}")
    known = {each.name: each for each in fields(kind.fields_of)}
    for key, value in table.items():
        if key not in known:
            raise CatalogueError(f"{path}.{key}: a named {kind.name} has no such key; remove it")
        if not kind.fits(key, value):
            raise CatalogueError(
                f"{path}.{key}: the value {value!r:.100} is not valid for this key; a valid table "
                f"is, for example, {{{kind.example}}}"
            )
    for key, each in known.items():
        if key not in table and each.default is MISSING:
            raise CatalogueError(f"{path}.{key}: the key is missing; add it")
