"""Check that an ONNX file contains all its weights.

A graph may keep weights in further files ("external data"). They have no digest and are not
packaged, so such a graph is refused.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.errors import WeightsUnfit

# The fields of onnx.proto that lead to tensors: the kind of each field, by the kind of its message.
_FIELDS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_LOCATION: Final = 14
_EXTERNAL: Final = 1
_VARINT: Final = 0
_BYTES: Final = 2
_SIZES: Final = {1: 8, 5: 4}


def check_single_file(path: Path) -> None:
    """Raise WeightsUnfit if the ONNX file refers to weights in another file.

    A file that is not valid is accepted here, because the caller reads it next and says why.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            is_external = _has_external_tensor(data)
    except (OSError, ValueError, IndexError, KeyError):
        return
    if is_external:
        raise WeightsUnfit(
            f"{path.name}: the weights of the graph are in a second file (external data), which is "
            "neither locked nor packaged; save the model as one file: "
            'onnx.save(onnx.load("MODEL.onnx"), "MODEL.onnx")'
        )


def _has_external_tensor(data: mmap.mmap) -> bool:
    waiting = [("model", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        for field, value, place in _fields(data, start, end):
            if message == "tensor" and (field, value) == (_DATA_LOCATION, _EXTERNAL):
                return True
            if place and field in _FIELDS[message]:
                waiting.append((_FIELDS[message][field], *place))
    return False


def _fields(
    data: mmap.mmap, start: int, end: int
) -> Iterator[tuple[int, int, tuple[int, int] | None]]:
    """Yield number and value of each field of a message, and the place of a field with bytes."""
    while start < end:
        tag, start = _varint(data, start)
        kind = tag & 7
        if kind in _SIZES:
            start += _SIZES[kind]
            continue
        value, start = _varint(data, start)
        if kind == _VARINT:
            yield tag >> 3, value, None
        elif kind == _BYTES and start + value <= end:
            yield tag >> 3, 0, (start, start + value)
            start += value
        else:
            raise ValueError(kind)


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start
