"""Decode untrusted text and JSON.

A large JSON text is decoded in a child process, because one call of the JSON parser holds the
interpreter's lock until it has read the whole text. The child sends the value in pieces, and
`join_pieces` puts them together in short steps.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from mmap import mmap
from typing import Any, Final, NoReturn

from contract.messages import Json
from worker.errors import InvalidInput

SMALL_JSON_BYTES: Final = 4 * 1024 * 1024
"""JSON that needs at most this much memory is parsed in less than about 20 ms."""
TEXT_FACTOR: Final = 5
"""The memory to decode a text is at most this many times the size of the text's file.

A decoded character needs at most four bytes, and the file's own bytes are also in memory.
"""
# With these limits, no step on a text or on a parsed value holds the interpreter's lock for longer
# than about 50 ms: neither the decoder, nor the garbage collector, nor the release of the memory.
_MAX_TEXT_BYTES: Final = 32 * 1024 * 1024
_MAX_CONTAINERS: Final = 300_000
_MAX_VALUES: Final = 5_000_000
_MAX_MEMBERS: Final = 1_000_000
_MAX_DEPTH: Final = 256
_CONTAINER_BYTES: Final = 88
_VALUE_BYTES: Final = 40
_MEMBER_BYTES: Final = 160
# The closing quote is optional and nothing is tried twice, so the time is linear for any input.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_PIECE_BYTES: Final = 1024 * 1024
_PIECE_VALUES: Final = 5_000
_CHARACTERS_OF_A_VALUE: Final = 50
_CONTAINERS: Final = (dict, list)
_ATOMS: Final = frozenset((int, float, bool, type(None)))


def decode(data: bytes | mmap) -> str:
    """Return a UTF-8 text of at most 32 MiB without a byte order mark, or raise InvalidInput."""
    if len(data) > _MAX_TEXT_BYTES:
        raise InvalidInput(
            f"the text has {len(data)} bytes; at most {_MAX_TEXT_BYTES} bytes are accepted"
        )
    return _decode(bytes(data))


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not UTF-8: the first invalid byte is at offset {error.start}"
        ) from None


def parse_json(data: bytes | mmap) -> Json:
    """Decode a JSON value. Raises InvalidInput if it is invalid, too deep or too large."""
    data = bytes(data)
    _check_counts(data)
    text = _decode(data)
    try:
        value: Json = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise InvalidInput("the input is not valid JSON") from None
    # A value with few brackets cannot be too deep.
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_too_deep(value):
        raise _too_deep()
    return value


def memory_bytes(data: bytes | mmap) -> int:
    """Return how many bytes `parse_json` needs at most."""
    containers = values = members = 0
    for start in range(0, len(data), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        containers += piece.count(b"[") + piece.count(b"{")
        values += piece.count(b",")
        members += piece.count(b":")
    return (
        TEXT_FACTOR * len(data)
        + _CONTAINER_BYTES * min(containers, _MAX_CONTAINERS)
        + _VALUE_BYTES * min(values, _MAX_VALUES)
        + _MEMBER_BYTES * min(members, _MAX_MEMBERS)
    )


def split_json(value: Json) -> Iterator[bytes]:
    """Yield a parsed JSON value in pieces, one line each, for `join_pieces`.

    A line is one of these steps in JSON. They refer to the container that was opened last:

        ["add", ITEMS]            add the items of a list, or the members of an object
        ["open", NAME, CONTAINER] add an empty list or object, and open it; NAME is its member name
        ["close"]                 close the container
    """
    waiting: list[Any] = [[value]]
    while waiting:
        items = waiting.pop()
        if items is None:
            yield _line("close")
        elif _is_small(items):
            yield _line("add", items)
        elif len(items) == 1:
            name, child = next(iter(items.items())) if type(items) is dict else (None, items[0])
            if isinstance(child, str):
                raise InvalidInput(
                    f"a text in the JSON is too long; texts of at most {_MAX_TEXT_BYTES} bytes "
                    "are accepted"
                )
            yield _line("open", name, type(child)())
            waiting += [None, child]
        else:
            waiting += reversed(_parts(items))


def join_pieces(lines: Iterable[bytes]) -> Json:
    """Return the value that `split_json` has divided. Other threads run after each piece."""
    root: list[Json] = []
    opened: list[Any] = [root]
    for line in lines:
        time.sleep(0)
        match json.loads(line.decode("utf-8", "surrogatepass")):
            case ["add", dict(members)]:
                opened[-1].update(members)
            case ["add", items]:
                opened[-1].extend(items)
            case ["open", name, container]:
                if type(opened[-1]) is dict:
                    opened[-1][name] = container
                else:
                    opened[-1].append(container)
                opened.append(container)
            case _:
                opened.pop()
    return root[0]


def _line(*step: Any) -> bytes:
    text = json.dumps(step, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass") + b"\n"


def _is_small(items: Any) -> bool:
    """Return whether a container is so small that it is parsed within about a millisecond."""
    left, waiting = _PIECE_VALUES, [items]
    while waiting and left >= 0:
        each = waiting.pop()
        if isinstance(each, str):
            # A long text is a piece of its own, because it cannot be divided.
            is_alone = each is not items and len(items) == 1 and len(each) <= _MAX_TEXT_BYTES
            left -= 0 if is_alone else len(each) // _CHARACTERS_OF_A_VALUE
        elif type(each) is dict:
            left -= 2 * len(each)
            if left >= 0:
                waiting += each
                waiting += each.values()
        elif type(each) is list:
            left -= len(each)
            if left >= 0 and not _ATOMS.issuperset(map(type, each)):
                waiting += each
    return left >= 0


def _parts(items: Any) -> list[Any]:
    """Return the items of a list or the members of an object as several smaller containers."""
    size = min(_PIECE_VALUES // 2, (len(items) + 1) // 2)
    starts = range(0, len(items), size)
    if type(items) is dict:
        members = list(items.items())
        return [dict(members[start : start + size]) for start in starts]
    return [items[start : start + size] for start in starts]


def _check_counts(data: bytes) -> None:
    """Raise InvalidInput if a JSON text contains too many values."""
    for what, limit, marks in (
        ("arrays and objects", _MAX_CONTAINERS, (b"[", b"{")),
        ("values", _MAX_VALUES, (b",",)),
        ("members", _MAX_MEMBERS, (b":",)),
    ):
        # Strings are removed only if necessary, because this takes longer than counting.
        if sum(map(data.count, marks)) > limit and (
            sum(map(_STRING.sub(b"", data).count, marks)) > limit
        ):
            raise InvalidInput(f"the JSON has too many {what}; at most {limit} are accepted")


def _is_too_deep(value: Json) -> bool:
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            for child in (each.values() if type(each) is dict else each)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return False
    return True


def _too_deep() -> InvalidInput:
    return InvalidInput(f"the JSON is nested deeper than {_MAX_DEPTH} levels")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
