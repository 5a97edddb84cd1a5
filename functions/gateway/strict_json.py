"""JSON from strangers: what RFC 8259 does not allow, Python's reader lets pass."""

import json
from typing import NoReturn

from contract.fields import Json


def parse(data: bytes | str) -> Json:
    """The value; ValueError for bad syntax or encoding, NaN, infinity, and absurd nesting."""
    try:
        return json.loads(data, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def encode(value: Json) -> bytes:
    """Compact UTF-8; ValueError for what UTF-8 or JSON cannot hold (1e999, half a surrogate)."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
