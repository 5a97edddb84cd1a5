"""Decode untrusted text and JSON."""

import json
import re
from mmap import mmap
from typing import Final, NoReturn

from contract.messages import Json
from worker.errors import InvalidInput

# The parser allocates memory for each array or object, and holds the interpreter's lock meanwhile.
_MAX_CONTAINERS: Final = 1_000_000
_CONTAINER_BYTES: Final = 88
_VALUE_BYTES: Final = 40
_MEMBER_BYTES: Final = 160
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
TEXT_FACTOR: Final = 5
"""The memory to decode a text is at most this many times the size of the text's file.

A decoded character needs at most four bytes, and the file's own bytes are also in memory.
"""
_PIECE_BYTES: Final = 1024 * 1024


def decode(data: bytes) -> str:
    """Return `data` as text without a byte order mark. Raises InvalidInput if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not UTF-8: the first invalid byte is at offset {error.start}"
        ) from None


def parse_json(data: bytes) -> Json:
    """Decode a JSON value.

    Raises InvalidInput if `data` is not valid JSON, if it contains NaN or an infinity, or if it
    contains more than a million arrays and objects in total.
    """
    # Strings are removed only if necessary, because this takes longer than counting.
    if _bracket_count(data) > _MAX_CONTAINERS and (
        _bracket_count(_STRING.sub(b"", data)) > _MAX_CONTAINERS
    ):
        raise InvalidInput(
            f"the JSON has too many arrays and objects; at most {_MAX_CONTAINERS} are accepted"
        )
    try:
        return json.loads(decode(data), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InvalidInput("the input is not valid JSON") from None


def memory_bytes(data: bytes | mmap) -> int:
    """Return how many bytes `parse_json` needs at most."""
    containers = values = members = 0
    for start in range(0, len(data), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        containers += _bracket_count(piece)
        values += piece.count(b",")
        members += piece.count(b":")
    return (
        TEXT_FACTOR * len(data)
        + _CONTAINER_BYTES * min(containers, _MAX_CONTAINERS)
        + _VALUE_BYTES * values
        + _MEMBER_BYTES * members
    )


def _bracket_count(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
