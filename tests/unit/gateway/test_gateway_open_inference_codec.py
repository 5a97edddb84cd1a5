"""Test how bodies of the Open Inference Protocol are read and written."""

import json
import math
import struct
from contextlib import suppress
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import problems
from gateway.http.open_inference.codec import (
    MAX_TENSORS,
    OipInference,
    read_request,
    write_response,
)
from gateway.http.open_inference.tensors import DATATYPES, Tensor, nested, size_of
from gateway.problems import HttpProblem

ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(),
    "BYTES": st.binary(max_size=20),
    "FP16": st.floats(width=16, allow_nan=False),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
    **{f"UINT{bits}": st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{
        f"INT{bits}": st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for bits in (8, 16, 32, 64)
    },
}
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, name: str = "t") -> Tensor:
    datatype, shape = draw(st.sampled_from(sorted(ELEMENTS))), draw(SHAPES)
    count = prod(shape)
    elements = draw(st.lists(ELEMENTS[datatype], min_size=count, max_size=count))
    return Tensor(name, datatype, shape, elements)


def body(inputs: Any, **others: Any) -> bytes:
    return json.dumps({"inputs": inputs, **others}).encode()


def refused(data: bytes, header_length: str | None = None) -> str:
    with pytest.raises(HttpProblem) as caught:
        read_request(data, header_length)
    assert caught.value.kind is problems.MALFORMED_REQUEST
    return caught.value.detail


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_binary_tensor_is_read_unchanged(written: list[Tensor]) -> None:
    named = [
        Tensor(f"t{number}", tensor.datatype, tensor.shape, tensor.elements)
        for number, tensor in enumerate(written)
    ]
    response = OipInference(
        model_name="noop", model_version="1", parameters={"job_ids": ""}, outputs=[]
    )
    parts = write_response(response, [(tensor, True) for tensor in named])
    data = b"".join(part for part in parts if isinstance(part, bytes))
    header_length = len(data) - sum(map(size_of, parts[1:]))
    # The output tensors of a response have the same form as input tensors.
    written_head = json.loads(data[:header_length])
    head = json.dumps({"inputs": written_head["outputs"]}).encode()
    found = read_request(head + data[header_length:], str(len(head)))
    assert list(found.inputs) == named


@given(tensors().filter(lambda tensor: tensor.datatype != "BYTES"))
def test_elements_are_read_from_flat_and_nested_lists(tensor: Tensor) -> None:
    if not all(math.isfinite(element) for element in tensor.elements):
        return
    value = {"name": "t", "datatype": tensor.datatype, "shape": tensor.shape}
    flat = read_request(body([{**value, "data": list(tensor.elements)}]), None)
    assert list(flat.inputs[0].elements) == tensor.elements
    if tensor.shape:
        deep = read_request(body([{**value, "data": nested(tensor)}]), None)
        assert list(deep.inputs[0].elements) == tensor.elements


@given(st.lists(st.floats(width=16, allow_nan=False), max_size=5))
def test_bf16_is_read_as_floats(values: list[float]) -> None:
    halves = b"".join(struct.pack("<f", value)[2:] for value in values)
    value = {"name": "t", "datatype": "BF16", "shape": [len(values)]}
    head = body([{**value, "parameters": {"binary_data_size": len(halves)}}])
    found = read_request(head + halves, str(len(head))).inputs[0].elements
    assert all(math.isclose(*pair, rel_tol=2**-7) for pair in zip(found, values, strict=True))


def test_elements_are_nested_by_the_shape() -> None:
    assert nested(Tensor("t", "INT8", (2, 3), [1, 2, 3, 4, 5, 6])) == [[1, 2, 3], [4, 5, 6]]
    assert nested(Tensor("t", "INT8", (2, 1, 2), [1, 2, 3, 4])) == [[[1, 2]], [[3, 4]]]
    assert nested(Tensor("t", "INT8", (), [1])) == 1
    assert nested(Tensor("t", "INT8", (0, 3), [])) == []


def tensor(**others: Any) -> dict[str, Any]:
    return {"name": "t", "datatype": "INT8", "shape": [1], "data": [1], **others}


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ([], "inputs"),
        (None, "inputs"),
        ({}, "inputs"),
        ([1], "inputs[0]"),
        ([tensor()] * (MAX_TENSORS + 1), "inputs"),
        ([tensor(), tensor()], "two tensors have the name"),
        ([tensor(name="")], "name"),
        ([tensor(name=1)], "name"),
        ([tensor(datatype="FP8")], "datatype"),
        ([tensor(datatype=[])], "datatype"),
        ([tensor(shape=[2])], "elements"),
        ([tensor(shape=[-1])], "shape"),
        ([tensor(shape=[True])], "shape"),
        ([tensor(shape=[1] * 9)], "shape"),
        ([tensor(shape=1)], "shape"),
        ([tensor(shape=[2**31] * 8)], "shape"),
        ([tensor(shape=[2**31 - 1] * 8)], "elements"),
        ([tensor(data=[128])], "INT8"),
        ([tensor(data=[True])], "INT8"),
        ([tensor(data=[1.0])], "INT8"),
        ([tensor(data=1)], "list"),
        ([tensor(data=[[[[[[[[[1]]]]]]]]])], "list"),
        ([tensor(datatype="BOOL")], "BOOL"),
        ([tensor(datatype="FP32", data=["1"])], "FP32"),
        ([tensor(datatype="BYTES")], "BYTES"),
        ([{"name": "t", "datatype": "INT8", "shape": [1]}], "data"),
        ([tensor(parameters=1)], "parameters"),
        ([tensor(parameters={"content_type": 1})], "content_type"),
        ([tensor(parameters={"binary_data_size": 0})], "exactly one of data"),
        ([tensor(parameters={"binary_data_size": 1})], "binary_data_size"),
        ([tensor(parameters={"binary_data_size": "1"})], "binary_data_size"),
        ([tensor(parameters={"shared_memory_region": "r"})], "not supported"),
    ],
)
def test_malformed_tensor_is_refused_with_the_fault(inputs: Any, named: str) -> None:
    assert named in refused(body(inputs))


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"id": 1}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"outputs": 1}, "outputs"),
        ({"outputs": [{"name": 1}]}, "outputs[0].name"),
        ({"outputs": [{"name": "x", "parameters": {"classification": 3}}]}, "not supported"),
        ({"outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        ({"parameters": []}, "parameters"),
    ],
)
def test_malformed_member_is_refused_with_a_reason(others: dict[str, Any], named: str) -> None:
    assert named in refused(body([tensor()], **others))


@pytest.mark.parametrize("header_length", ["-1", "x", "1e3", "99999", "9" * 400, "", "²"])
def test_invalid_header_length_is_refused(header_length: str) -> None:
    refused(body([tensor()]), header_length)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"inputs": NaN}'])
def test_body_that_is_no_json_object_is_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\1\0\0\0", b"\2\0\0\0a", b"\1\0\0\0ab", b"\0\0\0\0" * 2, b"\xff" * 8]
)
def test_inconsistent_element_lengths_are_refused(data: bytes) -> None:
    value = {"name": "t", "datatype": "BYTES", "shape": [1]}
    head = body([{**value, "parameters": {"binary_data_size": len(data)}}])
    refused(head + data, str(len(head)))


def test_bytes_after_the_last_tensor_are_refused() -> None:
    head = body([tensor()])
    assert "after its last tensor" in refused(head + b"x", str(len(head)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(
    value=st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("t") | JSON,
            "datatype": st.sampled_from(DATATYPES) | JSON,
            "shape": st.lists(st.integers(-1, 3), max_size=9) | JSON,
            "data": st.lists(JSON, max_size=4) | JSON,
            "parameters": st.fixed_dictionaries(
                {}, optional={"binary_data_size": st.integers(-1, 9) | JSON, "content_type": JSON}
            )
            | JSON,
        },
    ),
    rest=st.binary(max_size=9),
    has_header=st.booleans(),
    cut=st.integers(-2, 2),
)
def test_any_body_is_read_or_raises_a_problem(
    value: dict[str, Any], rest: bytes, *, has_header: bool, cut: int
) -> None:
    head = body([value], parameters=value.get("parameters"), outputs=[value])
    with suppress(HttpProblem):
        read_request(head + rest, str(len(head) + cut) if has_header else None)
