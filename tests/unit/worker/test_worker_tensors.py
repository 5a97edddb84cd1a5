"""Test how NumPy arrays, text and JSON are decoded to the inputs of a model."""

import contextlib
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import media
from worker.errors import InvalidInput
from worker.inputs import tensors, text

pytestmark = pytest.mark.torch  # NumPy is installed with torch


def npy(array: Any, version: tuple[int, int] = (1, 0), **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), version, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "i1", "<i8", "u1", "?"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_keeps_shape_and_type(dtype: str, version: tuple[int, int]) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 2).astype(dtype)
    for laid_out in (np.ascontiguousarray(array), np.asfortranarray(array)):
        found = tensors.decode(npy(laid_out, version), media.NPY)
        assert np.array_equal(found, array)
        assert found.dtype.isnative
        assert found.flags.c_contiguous
        assert found.flags.writeable


@pytest.mark.parametrize("shape", [(), (0,), (5,), (1,) * 8, (3, 0, 2)])
def test_any_shape_is_read(shape: tuple[int, ...]) -> None:
    assert tensors.decode(npy(np.zeros(shape, np.float32)), media.NPY).shape == shape


def test_json_becomes_one_array_or_several() -> None:
    one = tensors.decode(b"[[1, 2.5], [true, -3]]", media.JSON)
    assert (one.dtype, one.shape) == (np.float32, (2, 2))
    several = tensors.decode(b'{"a": [1], "b": [[2, 3]]}', media.JSON)
    assert {name: array.shape for name, array in several.items()} == {"a": (1,), "b": (1, 2)}


PLAIN = npy(np.zeros((2, 3), np.float32))
EMPTY = npy(np.zeros((0, 1), np.float32)).replace(b" " * 33, b"")
HUGE = npy(np.zeros((0, 1))).replace(b"(0, 1), }" + b" " * 14, b"(0, " + b"9" * 15 + b"), }")
OUT = (media.NPY, "dimension in the array's header is too large")


@pytest.mark.parametrize(
    ("data", "media_type", "said"),
    [
        (b"", media.NPY, "not a NumPy array file"),
        (PLAIN[:9], media.NPY, "not a NumPy array file"),
        (PLAIN[:40], media.NPY, "header cannot be read"),
        (PLAIN[:-1], media.NPY, "do not match the 23 bytes"),
        (PLAIN + b"\0", media.NPY, "do not match the 25 bytes"),
        (PLAIN.replace(b"(2, 3)", b"(9**9)"), media.NPY, "header cannot be read"),
        (PLAIN.replace(b"(2, 3)", b"(-2,3)"), media.NPY, "header cannot be read"),
        (
            PLAIN.replace(b"(2, 3), }", b"(99999999999, 9), }"),
            media.NPY,
            "do not match the 34 bytes",
        ),
        (HUGE, *OUT),
        (EMPTY.replace(b"(0, 1), }", f"(0, {'9' * 15}, {'9' * 15}), }}".encode()), *OUT),
        (PLAIN.replace(b"\x93NUMPY\1", b"\x93NUMPY\4"), media.NPY, "not a NumPy array file"),
        (npy(np.array(["a"])), media.NPY, "not numbers"),
        (npy(np.array([1], "M8[s]")), media.NPY, "not numbers"),
        (npy(np.array([{}], object), allow_pickle=True), media.NPY, "not numbers"),
        (npy(np.zeros((1,) * 9)), media.NPY, "header cannot be read"),
        (b"[[1], [2, 3]]", media.JSON, "nested lists of equal length"),
        (b'["1"]', media.JSON, "numbers in the range of float32"),
        (b"[1e39]", media.JSON, "in the range of float32"),
        (b"[" + b"9" * 400 + b"]", media.JSON, "numbers in the range of float32"),
        (b"[NaN]", media.JSON, "not valid JSON"),
        (b"[null]", media.JSON, "numbers in the range of float32"),
        (b"{}", media.JSON, "1 to 64 arrays"),
        (b'{"a": {"b": 1}}', media.JSON, "a: expected nested lists"),
        (b"[" * 9 + b"1" + b"]" * 9, media.JSON, "at most 8 dimensions"),
        (b"[" * 99_999, media.JSON, "nested deeper than 256 levels"),
        (b"[" * 200 + b"]" * 200, media.JSON, "at most 8 dimensions"),
        (b"[" * 900 + b"]" * 900, media.JSON, "nested deeper than 256 levels"),
        (b"\xff", media.JSON, "not UTF-8"),
    ],
)
def test_refusal_states_the_reason(data: bytes, media_type: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        tensors.decode(data, media_type)


@settings(max_examples=300)
@given(st.data())
def test_damaged_npy_is_decoded_or_refused(data: st.DataObject) -> None:
    broken = bytearray(PLAIN)
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput):
        tensors.decode(bytes(broken), media.NPY)


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_any_json_is_decoded_or_refused(value: object) -> None:
    with contextlib.suppress(InvalidInput):
        found = tensors.decode(json.dumps(value).encode(), media.JSON)
        assert np.isfinite(found).all()
        assert math.prod(found.shape) == found.size


def test_text_is_utf_8_without_byte_order_mark() -> None:
    assert text.decode("\ufeffGrüße".encode()) == "Grüße"
    with pytest.raises(InvalidInput, match="first invalid byte is at offset 2"):
        text.decode(b"ab\xe4")
