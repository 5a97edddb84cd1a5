"""Test that encoding and decoding keep values unchanged, and that malformed bytes are refused."""

import contextlib
import math
import struct
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus._pyamqp._decode import _DECODE_BY_CONSTRUCTOR
from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.amqp.codec import (
    MAX_DEPTH,
    MAX_VALUES,
    decode,
    encode,
    encode_composite,
    skip,
)
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
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)


def _integers(kind: type[int], bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low = -(1 << bits - 1) if signed else 0
    high = (1 << bits - 1) - 1 if signed else (1 << bits) - 1
    return st.integers(low, high).map(kind)


texts = st.text(st.characters(codec="utf-8"), max_size=300)
symbols = st.text(st.characters(max_codepoint=127), max_size=300).map(Symbol)
plain = [
    st.booleans(),
    _integers(UByte, 8, signed=False),
    _integers(UShort, 16, signed=False),
    _integers(UInt, 32, signed=False),
    _integers(ULong, 64, signed=False),
    _integers(Byte, 8, signed=True),
    _integers(Short, 16, signed=True),
    _integers(Int, 32, signed=True),
    _integers(Long, 64, signed=True),
    _integers(Timestamp, 64, signed=True),
    st.floats(width=32, allow_nan=False).map(Float),
    st.floats(allow_nan=False),
    st.binary(max_size=300),
    st.uuids(),
    texts,
    symbols,
]
exotic = [
    st.characters(codec="utf-8").map(Char),
    st.binary(min_size=4, max_size=4).map(Decimal32),
    st.binary(min_size=8, max_size=8).map(Decimal64),
    st.binary(min_size=16, max_size=16).map(Decimal128),
]


def _collections(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(items, max_size=5),
        st.dictionaries(symbols | texts, items, max_size=5),
        st.builds(Described, symbols | _integers(ULong, 64, signed=False), items),
    )


arrays = st.one_of([st.lists(each, max_size=20).map(Array) for each in (*plain, *exotic)])
values = st.recursive(st.one_of(st.none(), *plain, *exotic, arrays), _collections, max_leaves=20)


def same(left: Any, right: Any) -> bool:
    """Return whether two values, with all their items, are equal and have the same types."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same([*left], [*right]) and same([*left.values()], [*right.values()])
    if isinstance(left, Described):
        return same(left.descriptor, right.descriptor) and same(left.value, right.value)
    return bool(left == right)


@given(values)
def test_value_and_type_survive_encoding(value: Any) -> None:
    encoded = encode(value)
    assert same(decode(encoded), value)
    assert skip(encoded, 0) == len(encoded)


@given(values, values)
def test_skip_returns_the_next_offset(first: Any, second: Any) -> None:
    encoded = encode(first)
    assert skip(encoded + encode(second), 0) == len(encoded)


@given(st.one_of(*plain, st.lists(st.one_of(*plain)), st.dictionaries(symbols, texts)))
def test_microsofts_decoder_agrees(value: Any) -> None:
    encoded = memoryview(encode(value))
    rest, found = _DECODE_BY_CONSTRUCTOR[encoded[0]](encoded[1:])
    assert not rest
    assert _as_microsoft_sees(value) == found


def _as_microsoft_sees(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [_as_microsoft_sees(item) for item in value]
    if isinstance(value, dict):
        return {_as_microsoft_sees(key): _as_microsoft_sees(item) for key, item in value.items()}
    return value


def test_nan_survives_encoding() -> None:
    assert math.isnan(decode(encode(math.nan)))


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)


@given(values, st.data())
def test_damaged_bytes_decode_or_raise_decode_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] = data.draw(st.integers(0, 255))
    for damaged in (bytes(encoded), bytes(encoded[:at])):
        with contextlib.suppress(DecodeError):
            decode(damaged)
        with contextlib.suppress(DecodeError):
            assert skip(damaged, 0) <= len(damaged)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "bytes end before"),
        (b"\x3f", "format code"),
        (b"\x40\x40", "after the value"),
        (b"\x56\x02", "boolean"),
        (b"\xa1\x05abc", "bytes end before"),
        (b"\xa1\x01\xff", "encoding"),
        (b"\xa3\x01\x80", "encoding"),
        (b"\xc0\x02\x02\x40\x40", "size"),
        (b"\xc1\x02\x01\x40", "without a value"),
        (b"\xc1\x04\x02\x45\x40\x40", "size"),
        (b"\xc1\x03\x02\x45\x40", "as a key"),
        (b"\xd0\xff\xff\xff\xff\xff\xff\xff\xff", "more than"),
        (b"\x00" * 100, "nested more than"),
        (b"\xc0\xff\x01" * 100, "nested more than"),
    ],
)
def test_malformed_bytes_raise_decode_error(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)


def test_values_of_zero_width_count_towards_the_limit() -> None:
    nulls = struct.pack(">BIIB", 0xF0, 5, MAX_VALUES // 2, 0x40)
    assert decode(nulls) == [None] * (MAX_VALUES // 2)
    three = struct.pack(">BII", 0xD0, 4 + 3 * len(nulls), 3) + nulls * 3
    with pytest.raises(DecodeError, match="more than"):
        decode(three)


def test_deep_nesting_raises_decode_error() -> None:
    value: Any = []
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(DecodeError, match="nested more than"):
        decode(encode([[value]]))


def test_nested_and_described_arrays_are_decoded() -> None:
    nested = Array([Array([UInt(1)]), Array([UInt(2), UInt(3)])])
    assert same(decode(encode(nested)), nested)
    described = Array([Described(ULong(7), Symbol("a")), Described(ULong(7), Symbol("b"))])
    assert same(decode(encode(described)), described)
    with pytest.raises(TypeError, match="same type"):
        encode(Array([UInt(1), "text"]))


def test_trailing_nulls_are_encoded() -> None:
    assert encode_composite(0x24, [None, None]) == b"\x00\x53\x24\xc0\x03\x02\x40\x40"
    assert encode([None, None]) == b"\xc0\x03\x02\x40\x40"


def test_unsupported_type_or_range_raises_an_error() -> None:
    with pytest.raises(TypeError, match="set"):
        encode({1, 2})
    with pytest.raises(struct.error):
        encode(UByte(256))


def test_uuid_has_network_byte_order() -> None:
    assert encode(UUID(int=1)) == b"\x98" + b"\x00" * 15 + b"\x01"
