"""Test that parameters are checked against the catalogue, however a job is submitted."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.catalogue import DEFAULT_PATH
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.open_inference_caller import infer, tensor

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

DECLARED = """
parameters.top = {type = "integer", minimum = 1, maximum = 9}
parameters.names = {type = "array", items = {type = "string"}}
"""
WRONG = [
    ({"top": 0}, "/parameters/top"),
    ({"top": "3"}, "/parameters/top"),
    ({"names": ["a", 1]}, "/parameters/names/1"),
    ({"tops": 1}, "/parameters/tops"),
]


@pytest.fixture
async def declared(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway whose model `noop` declares two parameters."""
    path = tmp_path / "models.toml"
    path.write_text(DEFAULT_PATH.read_text(encoding="utf-8") + DECLARED, encoding="utf-8")
    async with open_gateway(catalogue_path=path) as gateway:
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
    headers = {**request.pop("headers", {}), "prefer": "respond-async"}
    return await gateway.http.post("/v1/models/noop/jobs", headers=headers, **request)


@pytest.mark.parametrize("way", ["query", "form", "json"])
@pytest.mark.parametrize(("parameters", "pointer"), WRONG)
async def test_a_job_with_an_invalid_parameter_is_refused_with_a_json_pointer_to_the_parameter(
    declared: RunningGateway, way: str, parameters: dict[str, Any], pointer: str
) -> None:
    refused = await submit(declared, way, parameters)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "invalid-input")
    assert problem["pointer"] == pointer
    assert declared.durable.runs == {}


@pytest.mark.parametrize("way", ["query", "form", "json"])
async def test_a_job_with_declared_parameters_is_sent_with_these_parameters(
    declared: RunningGateway, way: str
) -> None:
    parameters = {"top": 9, "names": []}
    assert (await submit(declared, way, parameters)).status_code == 202
    assert declared.queues.request().parameters == parameters


async def test_an_inference_request_with_an_invalid_parameter_is_refused(
    declared: RunningGateway,
) -> None:
    inputs = {"inputs": [tensor("eA==", content_type="base64")]}
    refused = await infer(declared, "noop", {**inputs, "parameters": {"top": 0}}, [])
    assert refused.status_code == 422
    assert "parameters/top: expected a whole number from 1 to 9" in refused.json()["error"]


async def test_any_parameters_are_accepted_if_the_model_declares_none(
    gateway: RunningGateway,
) -> None:
    assert (await submit(gateway, "json", {"anything": [1, None]})).status_code == 202
