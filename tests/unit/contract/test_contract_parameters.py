"""Test which values of parameters the schemas in the catalogue accept."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.errors import CatalogueError
from contract.parameters import InvalidParameter, check_parameters, read_schemas

SCHEMAS: dict[str, dict[str, Any]] = {
    "score": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
    "top": {"type": "integer", "minimum": 1},
    "flag": {"type": "boolean"},
    "mode": {"type": "string", "enum": ["fast", "good"]},
    "one": {"type": "integer", "enum": [1, 2]},
    "names": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"score": 0, "top": 1, "flag": False, "mode": "good", "one": 2, "names": ["a", "b"]},
        {"score": 0.25, "top": 3.0},
        {"score": 1, "top": 10**30},
    ],
)
def test_matching_parameters_are_accepted(parameters: dict[str, Any]) -> None:
    check_parameters(read_schemas("m.parameters", SCHEMAS), parameters)


@pytest.mark.parametrize(
    ("parameters", "pointer", "detail"),
    [
        ({"score": 1.5}, "/score", "expected a number from 0 to 1, found 1.5"),
        ({"score": float("nan")}, "/score", "found nan"),
        ({"score": True}, "/score", "found True"),
        ({"top": 0}, "/top", "expected a whole number of at least 1, found 0"),
        ({"top": 1.5}, "/top", "found 1.5"),
        ({"top": None}, "/top", "found None"),
        ({"flag": 1}, "/flag", "expected true or false, found 1"),
        ({"mode": "slow"}, "/mode", "a string: one of 'fast', 'good', found 'slow'"),
        ({"one": True}, "/one", "found True"),
        ({"names": []}, "/names", "expected an array from 1 to 2 elements, found []"),
        ({"names": ["a", 3]}, "/names/1", "expected a string, found 3"),
        ({"names": "ab"}, "/names", "found 'ab'"),
        ({"a/b~": 1}, "/a~1b~0", "the model has no such parameter; it has score, top, flag"),
        ({"mode": "x" * 500}, "/mode", "found 'xxx"),
    ],
)
def test_error_points_to_the_wrong_parameter(
    parameters: dict[str, Any], pointer: str, detail: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_parameters(read_schemas("m.parameters", SCHEMAS), parameters)
    assert caught.value.pointer == pointer
    assert detail in str(caught.value)
    assert len(str(caught.value)) < 250


def test_model_without_parameters_accepts_none() -> None:
    with pytest.raises(InvalidParameter, match="no such parameter; it has no parameters"):
        check_parameters({}, {"top": 1})


@pytest.mark.parametrize(
    ("schema", "detail"),
    [
        (
            {"type": "array", "items": {"type": "array"}},
            "p.n.items: expected a table whose key",
        ),
        ({"type": "string", "minimum": 1}, "p.n.minimum: a schema of the type string has no such"),
        (
            {"type": "number", "minimum": 2, "maximum": 1},
            "p.n: the value of minimum, 2, is greater than",
        ),
        ({"type": "number", "minimum": 2, "default": 1}, "p.n.default: expected a number of at"),
        ({"type": "string", "enum": ["a"], "default": "b"}, "p.n.default: expected a string: one"),
        (
            {"type": "array", "maxItems": -1},
            "p.n.maxItems: expected a whole number of at least 0, found -1",
        ),
    ],
)
def test_error_names_the_wrong_key_of_a_schema(schema: dict[str, Any], detail: str) -> None:
    with pytest.raises(CatalogueError, match=detail):
        read_schemas("p", {"n": schema})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(name=st.sampled_from(sorted(SCHEMAS)) | st.text(), value=JSON)
@example(name="score", value=10**400)
@example(name="names", value=[[]])
def test_any_value_is_accepted_or_pointed_to(name: str, value: Any) -> None:
    error: InvalidParameter | None = None
    try:
        check_parameters(SCHEMAS, {name: value})
    except InvalidParameter as raised:
        error = raised
    if error is None:
        assert name in SCHEMAS
    else:
        assert error.pointer.startswith("/")
        json.dumps(str(error))
