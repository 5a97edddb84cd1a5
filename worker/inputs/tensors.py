"""Decode arrays from foreign callers: `.npy` files, or lists of numbers in JSON.

A `.npy` file keeps its number type. Numbers in JSON become float32. The gateway sends the tensors
of `/v2` as JSON too: a single input as nested lists, several inputs as an object of nested lists.
"""

import math
import re
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

from contract import media
from worker.errors import InvalidInput
from worker.inputs.text import parse_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_RANK: Final = 8
_MAX_NAMES: Final = 64
# Booleans, signed and unsigned integers, floats; not objects, texts, records or times.
_KINDS: Final = "biuf"

# NumPy's own reader evaluates the header as Python. All writers use this form; at most eight sizes
# of at most fifteen digits are read.
_MAGIC: Final = b"\x93NUMPY"
_VERSIONS: Final = (b"\1", b"\2", b"\3")
_LENGTHS: Final = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}
_MAX_HEADER_BYTES: Final = 4096
_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<type>[|<>]?(?:b1|[iu][1248]|f[248]))', "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,15}, ?){0,7}(?:\d{1,15},?)?)\),? ?\} *\n?"
)

Tensors = Any
"""An array, or a dictionary of arrays by name."""


def decode(data: bytes, media_type: str) -> Tensors:
    """Return the array, or several arrays by name; raise InvalidInput if it cannot be decoded."""
    if media_type == media.JSON:
        return _from_json(parse_json(data))
    return _from_npy(data)


def _from_json(value: Any) -> Tensors:
    if not isinstance(value, dict):
        return _array(value, "the input")
    if not 1 <= len(value) <= _MAX_NAMES:
        raise InvalidInput(f"expected 1 to {_MAX_NAMES} arrays by name")
    return {name: _array(rows, name[:100]) for name, rows in value.items()}


def _array(rows: Any, name: str) -> "NDArray[Any]":
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    unfit = InvalidInput(f"{name}: expected numbers in lists, nested evenly, within float32")
    try:
        # NumPy chooses the type: if it were told float, it would convert texts to numbers.
        found = np.array(rows)
    except (ValueError, TypeError, OverflowError):
        raise unfit from None
    if found.dtype.kind not in _KINDS:
        raise unfit
    if found.ndim > _MAX_RANK:
        raise InvalidInput(f"{name}: expected at most {_MAX_RANK} dimensions")
    with np.errstate(over="ignore"):
        array = found.astype(np.float32)
    if not np.isfinite(array).all():
        raise unfit
    return array


def _from_npy(data: bytes) -> "NDArray[Any]":
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    body_at = _LENGTHS[data[6]].size + 8 if data[:6] == _MAGIC and data[6:7] in _VERSIONS else 0
    if not body_at or len(data) < body_at:
        raise InvalidInput("the input is not a NumPy array file of version 1 to 3")
    (header_bytes,) = _LENGTHS[data[6]].unpack_from(data, 8)
    body = memoryview(data)[body_at + header_bytes :]
    header = _HEADER.fullmatch(data[body_at : body_at + header_bytes][:_MAX_HEADER_BYTES])
    if header is None:
        raise InvalidInput("the array's header cannot be read, or its values are not numbers")
    dtype = np.dtype(header["type"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    # Checked before anything is allocated: the header could announce any size.
    if math.prod(shape) * dtype.itemsize != len(body):
        raise InvalidInput(f"the array's header does not fit the {len(body)} bytes that follow it")
    order: Literal["F", "C"] = "F" if header["fortran"] == b"True" else "C"
    try:
        array = np.frombuffer(body, dtype).reshape(shape, order=order)
    except ValueError:
        # One dimension is zero, and another is larger than possible.
        raise InvalidInput("the array's sizes are out of range") from None
    return np.array(array, dtype.newbyteorder("="), order="C")
