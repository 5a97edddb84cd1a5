"""Decodes the AMQP 1.0 type system from bytes that nobody vouches for."""

import struct
from collections.abc import Callable
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
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from emulator.servicebus.errors import DecodeError

MAX_DEPTH = 32
MAX_VALUES = 65536
"""In one decoding, however they nest: an array of nulls costs no bytes for its items."""

# The high half of a format code tells how the size of a value is known.
_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SMALL_SIZES = frozenset((0xA, 0xC, 0xE))
_LARGE_SIZES = frozenset((0xB, 0xD, 0xF))
_U32 = struct.Struct(">I").unpack_from


def decode(data: bytes) -> Any:
    """Decode the one value that the bytes hold; raises DecodeError."""
    decoder = Decoder(data)
    value = decoder.value()
    if decoder.offset != len(data):
        raise DecodeError("there are bytes after the value")
    return value


def skip(data: bytes, offset: int) -> int:
    """Return where the value that starts here ends, without looking inside it."""
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
            raise DecodeError(f"0x{code:02x} is not a format code")
    except (IndexError, struct.error):
        raise DecodeError("the bytes end within a value") from None
    if end > len(data):
        raise DecodeError("the bytes end within a value")
    return end


def _refuse_descriptor() -> int:
    raise DecodeError("a descriptor is itself described")


def compound_items(data: bytes, offset: int) -> tuple[int, int, int]:
    """Read the head of the list or map here: its count, where its items start, where it ends."""
    end = skip(data, offset)
    code = data[offset]
    if code == 0x45:
        return 0, end, end
    if code in {0xC0, 0xC1}:
        if end < offset + 3:
            raise DecodeError("a compound value is too small for its count")
        return data[offset + 2], offset + 3, end
    if code in {0xD0, 0xD1}:
        if end < offset + 9:
            raise DecodeError("a compound value is too small for its count")
        return _U32(data, offset + 5)[0], offset + 9, end
    raise DecodeError(f"0x{code:02x} is neither a list nor a map")


class Decoder:
    """Reads values one after the other, within limits of depth and number."""

    __slots__ = ("_budget", "data", "offset")

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data = data
        self.offset = offset
        self._budget = MAX_VALUES

    def value(self) -> Any:
        """Read the next value; raises DecodeError."""
        try:
            return self._value(0)
        except (IndexError, struct.error):
            raise DecodeError("the bytes end within a value") from None
        except UnicodeDecodeError:
            raise DecodeError("a text is not in its encoding") from None

    def fields(self) -> list[Any]:
        """Read the next value, which must be a list; raises DecodeError."""
        value = self.value()
        if type(value) is not list:
            raise DecodeError("a list was expected")
        return value

    def _value(self, depth: int) -> Any:
        code = self.data[self.offset]
        self.offset += 1
        return self._construct(code, depth)

    def _construct(self, code: int, depth: int) -> Any:
        read = _READERS[code]
        if read is None:
            raise DecodeError(f"0x{code:02x} is not a format code")
        return read(self, depth)

    def take(self, length: int) -> bytes:
        """Read octets as they are."""
        end = self.offset + length
        octets = self.data[self.offset : end]
        if len(octets) != length:
            raise DecodeError("the bytes end within a value")
        self.offset = end
        return octets

    def small(self) -> int:
        """Read a size or count of one octet."""
        self.offset += 1
        return self.data[self.offset - 1]

    def large(self) -> int:
        """Read a size or count of four octets."""
        number: int = _U32(self.data, self.offset)[0]
        self.offset += 4
        return number

    def described(self, depth: int) -> Described:
        """Read a descriptor and its value."""
        depth = self._deeper(depth, 1)
        return Described(self._value(depth), self._value(depth))

    def items(self, size: int, size_at: int, count: int, depth: int) -> list[Any]:
        """Read the items of a list or map that has this size from ``size_at`` on."""
        depth = self._deeper(depth, count)
        values = [self._value(depth) for _ in range(count)]
        self._expect_end(size, size_at)
        return values

    def pairs(self, size: int, size_at: int, count: int, depth: int) -> dict[Any, Any]:
        """Read the items of a map."""
        if count % 2:
            raise DecodeError("a map has a key without a value")
        items = iter(self.items(size, size_at, count, depth))
        try:
            return dict(zip(items, items, strict=True))
        except TypeError:
            raise DecodeError("a map has a key that is itself a collection") from None

    def array(self, size: int, size_at: int, count: int, depth: int) -> Array:
        """Read an array: one constructor, then the items without theirs."""
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
            raise DecodeError(f"there are more than {MAX_VALUES} values")
        if depth >= MAX_DEPTH:
            raise DecodeError(f"values are nested more than {MAX_DEPTH} deep")
        return depth + 1

    def _expect_end(self, size: int, size_at: int) -> None:
        if self.offset != size_at + size:
            raise DecodeError("the size of a collection does not fit its items")


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
        raise DecodeError("a boolean is neither 0 nor 1")
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
