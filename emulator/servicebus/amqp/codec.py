"""Decode and encode values of the AMQP 1.0 types (part 1 of the specification).

The decoder checks all sizes and limits the nesting depth and the number of items in a value,
because a peer may send invalid bytes. The encoder uses the shortest encoding of a value, except for
array items.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from emulator.servicebus.amqp.errors import DecodeError
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

MAX_DEPTH = 32
MAX_VALUES = 65536
"""The maximum number of items in one decoded value, including nested items.

A limit is necessary because items of zero width, for example nulls in an array, need no bytes.
"""

# The upper four bits of a format code determine how the size of the value is encoded.
_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SMALL_SIZES = frozenset((0xA, 0xC, 0xE))
_LARGE_SIZES = frozenset((0xB, 0xD, 0xF))
_U32 = struct.Struct(">I").unpack_from


def decode(data: bytes) -> Any:
    """Decode bytes that contain exactly one value. Raises DecodeError if the bytes are invalid."""
    decoder = Decoder(data)
    value = decoder.value()
    if decoder.offset != len(data):
        raise DecodeError("expected one AMQP value, but there are more bytes after the value")
    return value


def skip(data: bytes, offset: int) -> int:
    """Return the offset after a value without decoding it. Raises DecodeError."""
    try:
        code = data[offset]
        offset += 1
        for _ in range(MAX_DEPTH):
            if code:
                break
            offset = skip(data, offset) if data[offset] else _refuse_descriptor()
            code = data[offset]
            offset += 1
        kind = code >> 4
        if kind in _FIXED_WIDTHS:
            end = offset + _FIXED_WIDTHS[kind]
        elif kind in _SMALL_SIZES:
            end = offset + 1 + data[offset]
        elif kind in _LARGE_SIZES:
            end = offset + 4 + _U32(data, offset)[0]
        else:
            raise DecodeError(f"0x{code:02x} is not an AMQP format code")
    except (IndexError, struct.error):
        raise DecodeError("the bytes end before the AMQP value is complete") from None
    if end > len(data):
        raise DecodeError("the bytes end before the AMQP value is complete")
    return end


def _refuse_descriptor() -> int:
    raise DecodeError("a descriptor must not be a described value")


def compound_items(data: bytes, offset: int) -> tuple[int, int, int]:
    """Return the count of a list's or map's items, their first offset, and the one after them.

    Keys and values of a map count each. Raises DecodeError if it is incomplete or neither.
    """
    end = skip(data, offset)
    code = data[offset]
    if code == 0x45:
        return 0, end, end
    if code in {0xC0, 0xC1}:
        if end < offset + 3:
            raise DecodeError("a list or a map is too short to contain its item count")
        return data[offset + 2], offset + 3, end
    if code in {0xD0, 0xD1}:
        if end < offset + 9:
            raise DecodeError("a list or a map is too short to contain its item count")
        return _U32(data, offset + 5)[0], offset + 9, end
    raise DecodeError(f"0x{code:02x} is not the format code of a list or a map")


class Decoder:
    """Decodes consecutive values, and limits their number of items and their nesting depth."""

    __slots__ = ("_budget", "data", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset
        self._budget = MAX_VALUES

    def value(self) -> Any:
        """Decode the next value. Raises DecodeError if the value is malformed."""
        try:
            return self._value(0)
        except (IndexError, struct.error):
            raise DecodeError("the bytes end before the AMQP value is complete") from None
        except UnicodeDecodeError:
            raise DecodeError("a string, symbol or character has an invalid encoding") from None

    def fields(self) -> list[Any]:
        """Decode a list, and return its items. Raises DecodeError if it is none."""
        value = self.value()
        if type(value) is not list:
            raise DecodeError("expected an AMQP list, found an AMQP value of another type")
        return value

    def _value(self, depth: int) -> Any:
        code = self.data[self.offset]
        self.offset += 1
        read = _READERS[code]
        return self._construct(code, depth) if read is None else read(self, depth)

    def _construct(self, code: int, depth: int) -> Any:
        read = _READERS[code]
        if read is None:
            raise DecodeError(f"0x{code:02x} is not an AMQP format code")
        return read(self, depth)

    def take(self, length: int) -> bytes:
        """Return the next `length` bytes. Raises DecodeError if fewer are left."""
        end = self.offset + length
        octets = self.data[self.offset : end]
        if len(octets) != length:
            raise DecodeError("the bytes end before the AMQP value is complete")
        self.offset = end
        return octets

    def small(self) -> int:
        """Read and return a size or a count that is encoded in one byte."""
        self.offset += 1
        return self.data[self.offset - 1]

    def large(self) -> int:
        """Read and return a size or count that is encoded in four bytes."""
        number: int = _U32(self.data, self.offset)[0]
        self.offset += 4
        return number

    def described(self, depth: int) -> Described:
        """Decode a descriptor and the value that follows the descriptor."""
        depth = self._deeper(depth, 1)
        return Described(self._value(depth), self._value(depth))

    def items(self, size: int, size_at: int, count: int, depth: int) -> list[Any]:
        """Decode the items of a list or map. Raises DecodeError if its size is wrong."""
        depth = self._deeper(depth, count)
        values = [self._value(depth) for _ in range(count)]
        self._expect_end(size, size_at)
        return values

    def pairs(self, size: int, size_at: int, count: int, depth: int) -> dict[Any, Any]:
        """Decode a map from `count` alternating keys and values."""
        if count % 2:
            raise DecodeError("a map has a key without a value")
        items = iter(self.items(size, size_at, count, depth))
        try:
            return dict(zip(items, items, strict=True))
        except TypeError:
            raise DecodeError("a map must not have a list, map or array as a key") from None

    def array(self, size: int, size_at: int, count: int, depth: int) -> Array:
        """Decode an array. The type of the items is encoded once, before the first item."""
        depth = self._deeper(depth, count)
        code = self.small()
        if code:
            values = Array(self._construct(code, depth) for _ in range(count))
        else:
            descriptor = self._value(depth)
            code = self.small()
            values = Array(
                Described(descriptor, self._construct(code, depth)) for _ in range(count)
            )
        self._expect_end(size, size_at)
        return values

    def _deeper(self, depth: int, count: int) -> int:
        self._budget -= count
        if self._budget < 0:
            raise DecodeError(f"the AMQP value has more than {MAX_VALUES} items in total")
        if depth >= MAX_DEPTH:
            raise DecodeError(f"an AMQP value is nested more than {MAX_DEPTH} levels deep")
        return depth + 1

    def _expect_end(self, size: int, size_at: int) -> None:
        if self.offset != size_at + size:
            raise DecodeError(
                "the encoded size of a list, map or array differs from the total size of its items"
            )


_Reader = Callable[[Decoder, int], Any]


def _number(kind: Callable[[Any], Any], layout: str) -> _Reader:
    unpack, width = struct.Struct(">" + layout).unpack_from, struct.calcsize(">" + layout)

    def read(decoder: Decoder, _: int) -> Any:
        (number,) = unpack(decoder.data, decoder.offset)
        decoder.offset += width
        return kind(number)

    return read


def _constant(value: Any) -> _Reader:
    return lambda _decoder, _depth: value


def _octets(kind: Callable[[bytes], Any], width: int) -> _Reader:
    return lambda decoder, _: kind(decoder.take(width))


def _small(kind: Callable[[bytes], Any]) -> _Reader:
    return lambda decoder, _: kind(decoder.take(decoder.small()))


def _large(kind: Callable[[bytes], Any]) -> _Reader:
    return lambda decoder, _: kind(decoder.take(decoder.large()))


def _boolean(octet: int) -> bool:
    if octet > 1:
        raise DecodeError("a boolean must be encoded as 0 or 1")
    return octet == 1


def _symbol(octets: bytes) -> Symbol:
    return Symbol(octets.decode("ascii"))


def _char(octets: bytes) -> Char:
    return Char(octets.decode("utf-32-be"))


_Collect = Callable[[Decoder, int, int, int, int], Any]


def _small_compound(collect: _Collect) -> _Reader:
    def read(decoder: Decoder, depth: int) -> Any:
        size = decoder.small()
        size_at = decoder.offset
        return collect(decoder, size, size_at, decoder.small(), depth)

    return read


def _large_compound(collect: _Collect) -> _Reader:
    def read(decoder: Decoder, depth: int) -> Any:
        size = decoder.large()
        size_at = decoder.offset
        return collect(decoder, size, size_at, decoder.large(), depth)

    return read


_BY_CODE: dict[int, _Reader] = {
    0x00: Decoder.described,
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(UInt(0)),
    0x44: _constant(ULong(0)),
    0x45: lambda _decoder, _depth: [],
    0x50: _number(UByte, "B"),
    0x51: _number(Byte, "b"),
    0x52: _number(UInt, "B"),
    0x53: _number(ULong, "B"),
    0x54: _number(Int, "b"),
    0x55: _number(Long, "b"),
    0x56: _number(_boolean, "B"),
    0x60: _number(UShort, "H"),
    0x61: _number(Short, "h"),
    0x70: _number(UInt, "I"),
    0x71: _number(Int, "i"),
    0x72: _number(Float, "f"),
    0x73: _octets(_char, 4),
    0x74: _octets(Decimal32, 4),
    0x80: _number(ULong, "Q"),
    0x81: _number(Long, "q"),
    0x82: _number(float, "d"),
    0x83: _number(Timestamp, "q"),
    0x84: _octets(Decimal64, 8),
    0x94: _octets(Decimal128, 16),
    0x98: _octets(lambda octets: UUID(bytes=octets), 16),
    0xA0: _small(bytes),
    0xA1: _small(bytes.decode),
    0xA3: _small(_symbol),
    0xB0: _large(bytes),
    0xB1: _large(bytes.decode),
    0xB3: _large(_symbol),
    0xC0: _small_compound(Decoder.items),
    0xC1: _small_compound(Decoder.pairs),
    0xD0: _large_compound(Decoder.items),
    0xD1: _large_compound(Decoder.pairs),
    0xE0: _small_compound(Decoder.array),
    0xF0: _large_compound(Decoder.array),
}

_READERS: list[_Reader | None] = [_BY_CODE.get(code) for code in range(256)]


_SMALL_BYTES = 255
_SMALL_COMPOUND_BYTES = 254


def encode(value: Any) -> bytes:
    """Encode one value. Raises TypeError if AMQP has no type for it, struct.error if too large."""
    try:
        return _ENCODERS[type(value)](value)
    except KeyError:
        raise TypeError(
            f"AMQP has no type for a value of the Python type {type(value).__name__}"
        ) from None


def encode_list(values: Sequence[Any]) -> bytes:
    """Encode a list, including the null items at the end."""
    if not values:
        return b"\x45"
    return wrap_compound(0xC0, b"".join(map(encode, values)), len(values))


def encode_composite(code: int, fields: Sequence[Any]) -> bytes:
    """Encode all fields, null ones too: azure-servicebus before 7.15 needs the last ones."""
    return b"\x00\x53" + bytes((code,)) + encode_list(fields)


def wrap_compound(code: int, body: bytes, count: int) -> bytes:
    """Build a list (0xC0) or map (0xC1) from encoded items; map keys and values count each."""
    if len(body) <= _SMALL_COMPOUND_BYTES and count <= _SMALL_BYTES:
        return bytes((code, len(body) + 1, count)) + body
    return struct.pack(">BII", code + 0x10, len(body) + 4, count) + body


def encode_uint(value: int) -> bytes:
    """Encode an int as an AMQP uint, which has 32 bits."""
    if value == 0:
        return b"\x43"
    if value <= _SMALL_BYTES:
        return b"\x52" + bytes((value,))
    return struct.pack(">BI", 0x70, value)


def encode_binary(value: bytes) -> bytes:
    """Encode bytes as an AMQP binary value."""
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


# All items of an array share one constructor, so each type uses its widest encoding.


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
        raise TypeError("all items of an AMQP array must have the same type")
    if kind is Described:
        return _described_array_body(items)
    code, write = _ARRAY_ENCODERS[kind]
    return bytes((code,)), b"".join(map(write, items))


def _described_array_body(items: Iterable[Described]) -> tuple[bytes, bytes]:
    descriptors = {encode(item.descriptor) for item in items}
    if len(descriptors) > 1:
        raise TypeError("all items of an AMQP array must have the same descriptor")
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
