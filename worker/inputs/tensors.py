"""Decode untrusted arrays: `.npy` files, or lists of numbers in JSON.

Arrays in `.npy` files keep their number type. Numbers in JSON become float32. The gateway converts
the tensors of a `/v2` request to JSON: one tensor to nested lists, and several tensors to an object
that contains the nested lists of each tensor by its name.
"""

import json
import math
import re
import struct
from collections.abc import Iterator
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final, Literal

from contract import media
from worker.errors import InvalidInput
from worker.inputs import text

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_RANK: Final = 8
_MAX_NAMES: Final = 64
_VALUE_BYTES: Final = 12
_NUMBERS: Final = {bool, int, float}

# NumPy's own reader evaluates the header as Python, which is not safe here. All writers use this
# form of header. At most eight sizes of at most fifteen digits are accepted.
_MAGIC: Final = b"\x93NUMPY"
_VERSIONS: Final = (b"\1", b"\2", b"\3")
_LENGTHS: Final = {1: struct.Struct("<H"), 2: struct.Struct("<I"), 3: struct.Struct("<I")}
_MAX_HEADER_BYTES: Final = 4096
_MAX_EMPTY_BYTES: Final = 16 * 1024 * 1024
_HEADER: Final = re.compile(
    rb"\{'descr': '(?P<type>[|<>]?(?:b1|[iu][1248]|f[248]))', "
    rb"'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,15}, ?){0,7}(?:\d{1,15},?)?)\),? ?\} *\n?"
)

Tensors = Any
"""An array, or a dictionary of arrays by name."""


def decode(data: bytes | mmap, media_type: str) -> Tensors:
    """Decode JSON or `.npy` to an array, or to a dictionary of arrays, or raise InvalidInput."""
    if media_type == media.JSON:
        return _from_json(text.parse_json(data))
    return _from_npy(memoryview(data))


def memory_bytes(data: bytes | mmap, media_type: str) -> int:
    """Return how many bytes `decode` needs at most."""
    if media_type != media.JSON:
        return 2 * len(data)
    # NumPy's array of objects and the array of floats have at most as many values as the JSON.
    return text.memory_bytes(data) + _VALUE_BYTES * (len(data) // 2)


def dump(tensors: Tensors) -> Iterator[bytes | memoryview]:
    """Yield names and shapes as a line of JSON, and then the numbers of arrays in float32."""
    arrays = tensors if isinstance(tensors, dict) else {None: tensors}
    yield json.dumps([[name, array.shape] for name, array in arrays.items()]).encode() + b"\n"
    for array in arrays.values():
        yield array.data.cast("B") if array.size else b""


def load(file: mmap) -> Tensors:
    """Return the arrays from a file that `dump` has written."""
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    arrays = {}
    shapes = json.loads(file.readline())
    for name, shape in shapes:
        count, offset = math.prod(shape), file.tell()
        # The copy can be written to, and the file is closed afterwards.
        arrays[name] = np.frombuffer(file, np.float32, count, offset).reshape(shape).copy()
        file.seek(offset + arrays[name].nbytes)
    return arrays.get(None, arrays)


def _from_json(value: Any) -> Tensors:
    if not isinstance(value, dict):
        return _array(value, "the input")
    if not 1 <= len(value) <= _MAX_NAMES:
        raise InvalidInput(
            f"the input is an object with {len(value)} arrays; expected 1 to {_MAX_NAMES} arrays"
        )
    return {name: _array(rows, name[:100]) for name, rows in value.items()}


def _array(rows: Any, name: str) -> "NDArray[Any]":
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    unfit = InvalidInput(
        f"{name}: expected nested lists of equal length, which contain numbers in the "
        "range of float32"
    )
    # Without `dtype=object`, NumPy would convert texts to numbers, or reserve the length of the
    # longest text for each value. With it, lists of different lengths remain lists.
    try:
        found = np.array(rows, dtype=object)
    except ValueError:
        raise unfit from None
    # This comes first: `flat` cannot be used with more than 32 dimensions.
    if found.ndim > _MAX_RANK:
        raise InvalidInput(
            f"{name}: the array has {found.ndim} dimensions; at most {_MAX_RANK} dimensions are "
            "accepted"
        )
    if not set(map(type, found.flat)) <= _NUMBERS:
        raise unfit
    try:
        with np.errstate(over="ignore"):
            array = found.astype(np.float32)
    except OverflowError:
        raise unfit from None
    if not np.isfinite(array).all():
        raise unfit
    return array


def _from_npy(data: memoryview) -> "NDArray[Any]":
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    start = bytes(data[:7])
    body_at = _LENGTHS[start[6]].size + 8 if start[:6] == _MAGIC and start[6:] in _VERSIONS else 0
    if not body_at or len(data) < body_at:
        raise InvalidInput("the input is not a NumPy array file (.npy) of version 1, 2 or 3")
    (header_bytes,) = _LENGTHS[start[6]].unpack_from(data, 8)
    body = data[body_at + header_bytes :]
    header = _HEADER.fullmatch(data[body_at : body_at + header_bytes][:_MAX_HEADER_BYTES])
    if header is None:
        raise InvalidInput(
            "the array's header cannot be read, or the array's values are not numbers"
        )
    dtype = np.dtype(header["type"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    # The size is checked before memory is allocated, because the header could announce any size.
    if math.prod(shape) * dtype.itemsize != len(body):
        raise InvalidInput(
            f"the shape and type in the array's header do not match the {len(body)} bytes that "
            "follow the header"
        )
    # An array without values may have any size in its other dimensions, and a model that computes
    # a sum would allocate it.
    if math.prod(filter(None, shape)) * dtype.itemsize > max(len(body), _MAX_EMPTY_BYTES):
        raise InvalidInput("a dimension in the array's header is too large")
    order: Literal["F", "C"] = "F" if header["fortran"] == b"True" else "C"
    array = np.frombuffer(body, dtype).reshape(shape, order=order)
    return np.array(array, dtype.newbyteorder("="), order="C")
