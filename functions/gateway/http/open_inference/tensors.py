"""Read and write tensors of the Open Inference Protocol v2, in JSON and in binary.

In binary, the elements are little-endian and in row-major order, without gaps. In a BYTES tensor,
the length of each element precedes the element, as a number of four bytes. A function that reads a
tensor raises the problem `malformed-request` if the tensor is not valid.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

from contract.messages import Json, PayloadRef
from gateway.json_text import MAX_JSON_VALUES
from gateway.problems import malformed

BYTES: Final = "BYTES"
BF16: Final = "BF16"
MAX_RANK: Final = 8

_FORMATS: Final = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
    # The upper half of an FP32. `struct` has no format for BF16.
    BF16: "H",
}
DATATYPES: Final = (*_FORMATS, BYTES)
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in row-major order.

    BYTES elements are strings, or bytes if sent in binary; of a large result, its reference.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Sequence[Any] = field(repr=False)
    content_type: str | None = None


def check_shape(name: str, value: Json) -> tuple[int, ...]:
    """Return the shape of the tensor `name`."""
    sizes = value if isinstance(value, list) and len(value) <= MAX_RANK else [None]
    # The limit of 2^31 keeps the product of the sizes small enough to compute quickly.
    if all(type(size) is int and 0 <= size < 2**31 for size in sizes):
        return tuple(sizes)
    raise malformed(f"{name}.shape: expected a list of up to {MAX_RANK} whole numbers")


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Json) -> list[Any]:
    """Return the elements of a JSON tensor, which may be nested, as a flat list."""
    elements = list(_flat(name, data, depth=MAX_RANK))
    if len(elements) != prod(shape):
        raise malformed(
            f"{name}.data: found {len(elements)} elements, but the shape needs {prod(shape)}"
        )
    if datatype == BYTES:
        fits = all(isinstance(element, str) for element in elements)
    elif datatype == "BOOL":
        fits = all(isinstance(element, bool) for element in elements)
    elif datatype.startswith(("FP", "BF")):
        fits = all(type(element) in (int, float) for element in elements)
    else:
        low, high = _bounds(datatype)
        fits = all(type(element) is int and low <= element <= high for element in elements)
    if not fits:
        raise malformed(f"{name}.data: an element is not of datatype {datatype}")
    return elements


def _flat(name: str, data: Json, depth: int) -> Iterator[Any]:
    if not isinstance(data, list) or not depth:
        raise malformed(f"{name}.data: expected a flat list, or nested lists that match the shape")
    for element in data:
        if isinstance(element, list):
            yield from _flat(name, element, depth - 1)
        else:
            yield element


def _bounds(datatype: str) -> tuple[int, int]:
    bits = 8 * struct.calcsize(f"<{_FORMATS[datatype]}")
    return (
        (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


def unpack(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> list[Any]:
    """Return the elements of a binary tensor as a flat list."""
    count = prod(shape)
    if count > MAX_JSON_VALUES:
        raise malformed(
            f"{name}: the tensor has more than {MAX_JSON_VALUES} elements; send a larger input as "
            "one BYTES tensor, or as an upload"
        )
    if datatype == BYTES:
        return _unpack_bytes(name, count, data)
    layout = _FORMATS[datatype]
    expected_bytes = count * struct.calcsize(f"<{layout}")
    if len(data) != expected_bytes:
        raise malformed(
            f"{name}: found {len(data)} bytes, but the datatype and shape need {expected_bytes}"
        )
    elements = struct.unpack(f"<{count}{layout}", data)
    if datatype == BF16:
        widened = struct.pack(f"<{count}I", *(element << 16 for element in elements))
        elements = struct.unpack(f"<{count}f", widened)
    return list(elements)


def _unpack_bytes(name: str, count: int, data: memoryview) -> list[Any]:
    elements: list[bytes] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0] if start <= len(data) else start
        if position > len(data) or len(elements) == count:
            raise malformed(
                f"{name}: the lengths of the elements do not match the size of the tensor"
            )
        elements.append(bytes(data[start:position]))
    if len(elements) != count:
        raise malformed(f"{name}: found {len(elements)} elements, but the shape needs {count}")
    return elements


def pack(tensor: Tensor) -> list[bytes | PayloadRef]:
    """Return a tensor in its binary form, in which each reference stands for its content.

    The elements of a BYTES tensor must be bytes or references.
    """
    if tensor.datatype != BYTES:
        layout = f"<{len(tensor.elements)}{_FORMATS[tensor.datatype]}"
        return [struct.pack(layout, *tensor.elements)]
    parts: list[bytes | PayloadRef] = []
    for element in tensor.elements:
        parts += [_LENGTH.pack(size_of(element)), element]
    return parts


def size_of(part: bytes | PayloadRef) -> int:
    """Return the size in bytes of a part of a binary tensor."""
    return part.size_bytes if isinstance(part, PayloadRef) else len(part)


def nested(tensor: Tensor) -> Json:
    """Return the elements in nested lists of the tensor's shape; the element itself for rank 0."""
    rows: list[Any] = list(tensor.elements)
    for size in reversed(tensor.shape[1:]):
        rows = [rows[start : start + size] for start in range(0, len(rows), size)] if size else []
    return rows if tensor.shape else rows[0]
