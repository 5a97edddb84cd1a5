"""JSON from strangers: what RFC 8259 does not allow, Python's reader lets pass."""

import json
from typing import Any, Final, NoReturn

from contract.fields import Json

MAX_DEPTH: Final = 256
"""Far from Python's own limit, which is another for whoever reads or writes the value next."""

_CONTAINERS: Final = (dict, list)
_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"


def parse(data: bytes | str) -> Json:
    """The value; ValueError for bad syntax or encoding, NaN, infinity, and absurd nesting."""
    try:
        value: Json = json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # Counting costs nothing beside parsing, and most values have few brackets.
    if _brackets(data) > MAX_DEPTH:
        _check_depth(value)
    return value


def encode(value: Json) -> bytes:
    """Compact UTF-8; ValueError for what UTF-8 or JSON cannot hold (1e999, half a surrogate)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _brackets(data: bytes | str) -> int:
    if isinstance(data, str):
        return data.count("[") + data.count("{")
    return data.count(b"[") + data.count(b"{")


def _check_depth(value: Json) -> None:
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
