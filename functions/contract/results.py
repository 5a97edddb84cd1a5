"""Read the named results of a model in the catalogue.

A model has one result, and may have further results, for example a mask beside a list of objects.
Each further result has a name and its own entry:

    results.mask = {media_type = "image/png"}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from contract.errors import CatalogueError
from contract.named_tables import NamedTableKind, check_named_tables

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


def _fits(key: str, value: Any) -> bool:
    return isinstance(value, bool if key == "optional" else str)


_KIND: Final = NamedTableKind(
    "result", NamedResult, 'media_type = "image/png"', MAX_NAMED_RESULTS, _RESERVED, _fits
)


def is_media_type(text: str) -> bool:
    """Return whether a text is a media type without parameters, for example `image/png`."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def read_results(path: str, value: Any) -> Mapping[str, NamedResult]:
    """Return the named results of a model's entry by name.

    `path` is the position of the results in the catalogue, for the text of an error. Raises
    CatalogueError if a result is not valid.
    """
    check_named_tables(path, value, _KIND)
    return MappingProxyType(
        {name: _read_result(f"{path}.{name}", each) for name, each in value.items()}
    )


def _read_result(path: str, table: dict[str, Any]) -> NamedResult:
    found = NamedResult(**table)
    if not is_media_type(found.media_type):
        raise CatalogueError(
            f"{path}.media_type: expected a media type such as image/png, found "
            f"{found.media_type!r:.100}"
        )
    return found
