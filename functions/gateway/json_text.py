"""Read and write JSON texts (RFC 8259) within limits of depth, size and time."""

import json
import math
from typing import Any, Final, NoReturn

from contract.messages import Json

MAX_DEPTH: Final = 256
"""The largest nesting depth of JSON, below what Python can read and what it can write."""

MAX_JSON_VALUES: Final = 300_000
"""How many values and names a JSON text may have: the parser blocks all requests for 50 ms then."""

# A value with more values is encoded in small steps, between which other threads can run.
_LARGE_JSON_VALUES: Final = 10_000
# Longer integers exceed the range of floats.
_MAX_INTEGER_CHARACTERS: Final = 309
_CONTAINERS: Final = (dict, list)
_TOO_DEEP: Final = f"the value is nested deeper than {MAX_DEPTH} levels"
_TOO_MANY: Final = (
    f"the text has more than {MAX_JSON_VALUES} values and member names; send a larger input as "
    "bytes or as an upload"
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def parse_json(data: bytes | str) -> Json:
    """Decode a JSON text (RFC 8259). Raises ValueError if it is not valid or exceeds the limits.

    NaN, infinity and numbers that are too large are not valid.
    """
    if isinstance(data, str):
        # The replacement of half surrogate pairs affects only the count.
        _check_value_count(data.encode("utf-8", "replace"))
        text = data
    else:
        data = data.removeprefix(_BYTE_ORDER_MARK)
        _check_value_count(data)
        text = data.decode()
    bracket_count = text.count("[") + text.count("{")
    try:
        value: Json = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # A value with few brackets cannot be too deep, so its depth is not measured.
    if bracket_count > MAX_DEPTH:
        _check_depth(value)
    return value


def encode_json(value: Json) -> bytes:
    """Return compact JSON in UTF-8. Raises ValueError for infinity or half a surrogate pair."""
    if has_more_values(value, _LARGE_JSON_VALUES):
        return "".join(_ENCODER.iterencode(value)).encode()
    return _ENCODER.encode(value).encode()


def encode_any_json(value: Json) -> bytes:
    """Return compact JSON of what a model has returned, also if it is not valid.

    Half of a surrogate pair is escaped, and infinity is written as Python does.
    """
    try:
        return encode_json(value)
    except ValueError:
        return json.dumps(value, separators=(",", ":")).encode()


def has_more_values(value: Json, limit: int) -> bool:
    """Return whether a JSON value contains more than `limit` values, in little time."""
    count, containers = 1, [value] if type(value) in _CONTAINERS else []
    while containers and count <= limit:
        container = containers.pop()
        count += len(container)
        if count <= limit:
            inner = container.values() if type(container) is dict else container
            containers += [each for each in inner if type(each) in _CONTAINERS]
    return count > limit


def _check_value_count(data: bytes) -> None:
    """Raise ValueError if a JSON text has more than MAX_JSON_VALUES values and member names.

    Each value or name comes with one comma, colon or bracket, which is one byte in UTF-8.
    """
    if _count_signs(data, 0, len(data)) <= MAX_JSON_VALUES:
        return
    # Do not count the characters inside strings. First remove the escaped quotation marks, because
    # these do not end a string.
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if data.count(b'"') > 2 * MAX_JSON_VALUES:
        raise ValueError(_TOO_MANY)
    count = position = 0
    while count <= MAX_JSON_VALUES:
        start = data.find(b'"', position)
        end = data.find(b'"', start + 1) if start >= 0 else -1
        # Count at least one value before each string. So the loop also ends soon if the text has
        # only strings.
        count += max(1, _count_signs(data, position, start if start >= 0 else len(data)))
        if end < 0:
            break
        position = end + 1
    if count > MAX_JSON_VALUES:
        raise ValueError(_TOO_MANY)


def _count_signs(data: bytes, start: int, end: int) -> int:
    count = data.count(b",", start, end) + data.count(b":", start, end)
    return count + data.count(b"[", start, end) + data.count(b"{", start, end)


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


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not allowed in JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _parse_int(text: str) -> int:
    # The time for a conversion grows with the square of the number of digits.
    if len(text) > _MAX_INTEGER_CHARACTERS:
        raise ValueError(f"the number {text[:20]}… has more than {_MAX_INTEGER_CHARACTERS} digits")
    return int(text)
