"""Encodes the AMQP 1.0 type system, in the smallest form that holds the value."""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from emulator.servicebus.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Long,
    Raw,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

_SMALL_BYTES = 255
_SMALL_COMPOUND_BYTES = 254


def encode(value: Any) -> bytes:
    """Encode one value. Raises TypeError for a type AMQP lacks, struct.error when out of range."""
    try:
        return _ENCODERS[type(value)](value)
    except KeyError:
        raise TypeError(f"AMQP has no type for {type(value).__name__}") from None


def encode_list(values: Sequence[Any]) -> bytes:
    """Encode a list as it stands, with every null in it."""
    if not values:
        return b"\x45"
    return wrap_compound(0xC0, b"".join(map(encode, values)), len(values))


def encode_composite(code: int, fields: Sequence[Any]) -> bytes:
    """Encode a described list. Fields at the end that are null are left out."""
    count = len(fields)
    while count and fields[count - 1] is None:
        count -= 1
    return b"\x00\x53" + bytes((code,)) + encode_list(fields[:count])


def wrap_compound(code: int, body: bytes, count: int) -> bytes:
    """Put the head of a list (0xC0) or map (0xC1) before its encoded items."""
    if len(body) <= _SMALL_COMPOUND_BYTES and count <= _SMALL_BYTES:
        return bytes((code, len(body) + 1, count)) + body
    return struct.pack(">BII", code + 0x10, len(body) + 4, count) + body


def encode_uint(value: int) -> bytes:
    """Encode an unsigned integer of 32 bits."""
    if value == 0:
        return b"\x43"
    if value <= _SMALL_BYTES:
        return b"\x52" + bytes((value,))
    return struct.pack(">BI", 0x70, value)


def encode_binary(value: bytes) -> bytes:
    """Encode bytes."""
    return _variable(0xA0, value)


def _variable(code: int, octets: bytes) -> bytes:
    if len(octets) <= _SMALL_BYTES:
        return bytes((code, len(octets))) + octets
    return struct.pack(">BI", code + 0x10, len(octets)) + octets


def _ulong(value: int) -> bytes:
    if value == 0:
        return b"\x44"
    if 0 < value <= _SMALL_BYTES:
        return b"\x53" + bytes((value,))
    return struct.pack(">BQ", 0x80, value)


def _int(value: int) -> bytes:
    if -128 <= value <= 127:
        return struct.pack(">Bb", 0x54, value)
    return struct.pack(">Bi", 0x71, value)


def _long(value: int) -> bytes:
    if -128 <= value <= 127:
        return struct.pack(">Bb", 0x55, value)
    return struct.pack(">Bq", 0x81, value)


def _map(value: dict[Any, Any]) -> bytes:
    body = b"".join(encode(each) for pair in value.items() for each in pair)
    return wrap_compound(0xC1, body, 2 * len(value))


def _described(value: Described) -> bytes:
    return b"\x00" + encode(value.descriptor) + encode(value.value)


# Arrays: all items have one constructor, so the widest form of it is taken.


def _array(items: Array) -> bytes:
    constructor, body = _array_body(items)
    return struct.pack(">BII", 0xF0, len(body) + 4 + len(constructor), len(items)) + (
        constructor + body
    )


def _array_body(items: Sequence[Any]) -> tuple[bytes, bytes]:
    if not items:
        return b"\x40", b""
    kind = type(items[0])
    if any(type(item) is not kind for item in items):
        raise TypeError("the items of an AMQP array have one type")
    if kind is Described:
        return _described_array_body(items)
    code, write = _ARRAY_ENCODERS[kind]
    return bytes((code,)), b"".join(map(write, items))


def _described_array_body(items: Iterable[Described]) -> tuple[bytes, bytes]:
    descriptors = {encode(item.descriptor) for item in items}
    if len(descriptors) > 1:
        raise TypeError("the items of an AMQP array have one descriptor")
    constructor, body = _array_body([item.value for item in items])
    return b"\x00" + descriptors.pop() + constructor, body


def _counted(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def _compound_item(values: Sequence[Any]) -> bytes:
    body = b"".join(map(encode, values))
    return struct.pack(">II", len(body) + 4, len(values)) + body


def _map_item(value: dict[Any, Any]) -> bytes:
    return _compound_item([each for pair in value.items() for each in pair])


def _array_item(items: Array) -> bytes:
    return _array(items)[1:]


def _packer(layout: str) -> Callable[[Any], bytes]:
    return struct.Struct(layout).pack


def _one_code(code: int, layout: str) -> Callable[[Any], bytes]:
    pack = struct.Struct(">B" + layout).pack
    return lambda value: pack(code, value)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"\x40",
    bool: lambda value: b"\x41" if value else b"\x42",
    UByte: _one_code(0x50, "B"),
    UShort: _one_code(0x60, "H"),
    UInt: encode_uint,
    ULong: _ulong,
    Byte: _one_code(0x51, "b"),
    Short: _one_code(0x61, "h"),
    Int: _int,
    Long: _long,
    int: _long,
    Float: _one_code(0x72, "f"),
    float: _one_code(0x82, "d"),
    Decimal32: lambda value: b"\x74" + value,
    Decimal64: lambda value: b"\x84" + value,
    Decimal128: lambda value: b"\x94" + value,
    Char: lambda value: b"\x73" + value.encode("utf-32-be"),
    Timestamp: _one_code(0x83, "q"),
    UUID: lambda value: b"\x98" + value.bytes,
    bytes: encode_binary,
    str: lambda value: _variable(0xA1, value.encode()),
    Symbol: lambda value: _variable(0xA3, value.encode("ascii")),
    list: encode_list,
    dict: _map,
    Array: _array,
    Described: _described,
    Raw: bytes,
}

_ARRAY_ENCODERS: dict[type, tuple[int, Callable[[Any], bytes]]] = {
    type(None): (0x40, lambda _: b""),
    bool: (0x56, lambda value: b"\x01" if value else b"\x00"),
    UByte: (0x50, _packer(">B")),
    UShort: (0x60, _packer(">H")),
    UInt: (0x70, _packer(">I")),
    ULong: (0x80, _packer(">Q")),
    Byte: (0x51, _packer(">b")),
    Short: (0x61, _packer(">h")),
    Int: (0x71, _packer(">i")),
    Long: (0x81, _packer(">q")),
    int: (0x81, _packer(">q")),
    Float: (0x72, _packer(">f")),
    float: (0x82, _packer(">d")),
    Decimal32: (0x74, bytes),
    Decimal64: (0x84, bytes),
    Decimal128: (0x94, bytes),
    Char: (0x73, lambda value: value.encode("utf-32-be")),
    Timestamp: (0x83, _packer(">q")),
    UUID: (0x98, lambda value: value.bytes),
    bytes: (0xB0, _counted),
    str: (0xB1, lambda value: _counted(value.encode())),
    Symbol: (0xB3, lambda value: _counted(value.encode("ascii"))),
    list: (0xD0, _compound_item),
    dict: (0xD1, _map_item),
    Array: (0xF0, _array_item),
}
