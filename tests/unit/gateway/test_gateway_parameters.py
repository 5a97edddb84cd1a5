"""Test that each API checks the parameters of a job against the catalogue, and describes them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from contract.catalogue import Catalogue
from contract.parameters import InvalidParameter, check_parameters
from gateway.http.openapi.document import parameters_schema
from tests.unit.gateway.conftest import RunningGateway, open_gateway, write_catalogue
from tests.unit.gateway.open_inference_caller import infer, tensor

DECLARED = """
parameters.top = {type = "integer", minimum = 1, maximum = 9}
parameters.names = {type = "array", items = {type = "string"}}
"""
ALL_KINDS = (
    DECLARED
    + """
parameters.threshold = {type = "number", minimum = 0, maximum = 1}
parameters.mode = {type = "string", enum = ["fast", "exact"]}
parameters.draw = {type = "boolean"}
[noop.parameters.sizes]
type = "array"
items = {type = "integer", enum = [1, 2]}
minItems = 1
maxItems = 3
"""
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 11),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.5, 1.0, 9.0, "fast", "exact", "slow", "", "3"]),
    st.lists(st.sampled_from([0, 1, 2, 2.0, True, "a", None]), max_size=4),
    st.just({}),
)
WRONG = [
    ({"top": 0}, "/parameters/top"),
    ({"top": "3"}, "/parameters/top"),
    ({"names": ["a", 1]}, "/parameters/names/1"),
    ({"tops": 1}, "/parameters/tops"),
]


@pytest.fixture
async def declared(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway whose model `noop` declares two parameters."""
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, DECLARED)) as gateway:
        yield gateway


async def submit(gateway: RunningGateway, way: str, parameters: Any) -> httpx.Response:
    text = json.dumps(parameters)
    match way:
        case "query":
            request: dict[str, Any] = {
                "content": b"x",
                "params": {"parameters": text},
                "headers": {"content-type": "text/plain"},
            }
        case "form":
            request = {"files": {"file": ("a", b"x", "text/plain")}, "data": {"parameters": text}}
        case _:
            request = {"json": {"input": {"text": "x"}, "parameters": parameters}}
    return await gateway.submit(**request)


@pytest.mark.parametrize("way", ["query", "form", "json"])
@pytest.mark.parametrize(("parameters", "pointer"), WRONG)
async def test_invalid_parameter_is_refused_with_a_pointer(
    declared: RunningGateway, way: str, parameters: dict[str, Any], pointer: str
) -> None:
    refused = await submit(declared, way, parameters)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "invalid-input")
    assert problem["pointer"] == pointer
    assert declared.durable.runs == {}


@pytest.mark.parametrize("way", ["query", "form", "json"])
async def test_declared_parameters_are_sent(declared: RunningGateway, way: str) -> None:
    parameters = {"top": 9, "names": []}
    assert (await submit(declared, way, parameters)).status_code == 202
    assert declared.queues.request().parameters == parameters


async def test_inference_with_an_invalid_one_is_refused(declared: RunningGateway) -> None:
    inputs = {"inputs": [tensor("eA==", content_type="base64")]}
    refused = await infer(declared, "noop", {**inputs, "parameters": {"top": 0}}, [])
    assert refused.status_code == 422
    assert "parameters/top: expected a whole number from 1 to 9" in refused.json()["error"]


def submit_operation(document: dict[str, Any], model: str) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][f"/v1/models/{model}/jobs"]["post"]
    return found


@pytest.mark.parametrize("way", ["query", "form", "json"])
async def test_openapi_describes_them_in_every_body(declared: RunningGateway, way: str) -> None:
    document = (await declared.http.get("/openapi.json")).json()
    for model in ("noop", "classifier"):
        operation = submit_operation(document, model)
        content = operation["requestBody"]["content"]
        match way:
            case "query":
                (parameter,) = (p for p in operation["parameters"] if p["name"] == "parameters")
                schema = parameter["content"]["application/json"]["schema"]
            case "form":
                schema = content["multipart/form-data"]["schema"]["properties"]["parameters"]
            case _:
                properties = content["application/json"]["schema"]["properties"]
                schema, null = properties["parameters"]["anyOf"]
                assert null == {"type": "null"}
        assert schema == {"$ref": f"#/components/schemas/{model}_parameters"}
    schemas = document["components"]["schemas"]
    assert schemas["noop_parameters"]["properties"]["top"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
    }
    assert "properties" not in schemas["classifier_parameters"]


async def test_operation_has_the_types_and_deadlines_of_the_model(gateway: RunningGateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    for model in gateway.services.catalogue.values():
        operation = submit_operation(document, model.name)
        content = set(operation["requestBody"]["content"])
        assert content == {*model.media_types, "multipart/form-data", "application/json"}
        (deadline,) = (p for p in operation["parameters"] if p["name"] == "deadline_seconds")
        assert deadline["schema"]["maximum"] == model.max_deadline_seconds
        assert "model" not in {parameter["name"] for parameter in operation["parameters"]}


async def test_model_with_two_versions_has_one_operation(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path, '[noop."2"]\ndescription = "Another."\n')
    async with open_gateway(catalogue_path=path) as gateway:
        document = (await gateway.http.get("/openapi.json")).json()
        OpenAPIV31SpecValidator(document).validate()
    found = [path for path in document["paths"] if path.startswith("/v1/models/noop")]
    assert found == ["/v1/models/noop/jobs"]


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Return a catalogue whose model `noop` has parameters of all kinds."""
    return Catalogue.load(write_catalogue(tmp_path_factory.mktemp("catalogue"), ALL_KINDS))


@given(st.sampled_from(["top", "names", "threshold", "mode", "draw", "sizes", "unknown"]), VALUES)
@example("top", 1.0)
@example("top", True)
@example("sizes", [True])
@example("sizes", [2.0])
def test_gateway_accepts_what_the_schema_accepts(
    all_kinds: Catalogue, name: str, value: Any
) -> None:
    model = all_kinds["noop"]
    is_valid = Draft202012Validator(parameters_schema(model)).is_valid({name: value})
    try:
        check_parameters(model.parameters, {name: value})
    except InvalidParameter:
        assert not is_valid
    else:
        assert is_valid


async def test_any_are_accepted_if_none_are_declared(gateway: RunningGateway) -> None:
    assert (await submit(gateway, "json", {"anything": [1, None]})).status_code == 202
