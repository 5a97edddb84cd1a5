"""Read the named results of a model in the catalogue.

A model has one result, and may have further results, for example a mask beside a list of objects.
Each further result has a name and its own entry:

    results.mask = {media_type = "image/png"}
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from contract.errors import CatalogueError
from contract.messages import is_payload_name

MAX_NAMED_RESULTS: Final = 4
"""How many named results a model may have in addition to its result."""

MAX_RESULT_BYTES: Final = 64 * 1024 * 1024
"""The largest size in bytes of all results of a job together."""

# Names with another meaning in the output tensors of the Open Inference Protocol or in `Results`.
_RESERVED: Final = frozenset({"first", "named", "result", "results"})
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


@dataclass(frozen=True, slots=True)
class NamedResult:
    """A result that a model has in addition to its first result.

    Attributes:
        media_type: The media type of the result.
        description: A sentence for callers.
        optional: Whether the model may omit the result.
    """

    media_type: str
    description: str = ""
    optional: bool = False


def is_media_type(text: str) -> bool:
    """Return whether a text is a media type without parameters, for example `image/png`."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def read_results(path: str, value: Any) -> Mapping[str, NamedResult]:
    """Return the named results of a model's entry by name.

    `path` is the position of the results in the catalogue, which the text of an error names. Raises
    CatalogueError if a result is not valid.
    """
    if not isinstance(value, dict):
        raise CatalogueError(
            f'{path}: expected a table, for example {{mask = {{media_type = "image/png"}}}}'
        )
    if len(value) > MAX_NAMED_RESULTS:
        raise CatalogueError(
            f"{path}: expected at most {MAX_NAMED_RESULTS} named results, found {len(value)}"
        )
    for name in value:
        if not is_payload_name(name) or name in _RESERVED:
            raise CatalogueError(
                f"{path}.{name}: the name must have 1 to 32 lower-case letters, digits and "
                f"underscores, begin with a letter, and be none of {', '.join(sorted(_RESERVED))}"
            )
    return MappingProxyType(
        {name: _read_result(f"{path}.{name}", each) for name, each in value.items()}
    )


def _read_result(path: str, table: Any) -> NamedResult:
    if not isinstance(table, dict):
        raise CatalogueError(f'{path}: expected a table, for example {{media_type = "image/png"}}')
    known = {each.name: each for each in fields(NamedResult)}
    for key, value in table.items():
        if key not in known:
            raise CatalogueError(f"{path}.{key}: a result has no such key; remove it")
        if not isinstance(value, bool if key == "optional" else str):
            raise CatalogueError(
                f"{path}.{key}: the value {value!r:.100} is not valid for this key"
            )
    if any(key not in table for key, each in known.items() if each.default is MISSING):
        raise CatalogueError(f"{path}.media_type: the key is missing; add it")
    found = NamedResult(**table)
    if not is_media_type(found.media_type):
        raise CatalogueError(f"{path}.media_type: expected a media type, for example image/png")
    return found
