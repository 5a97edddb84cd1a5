"""Test requests to /v2 for a model with named inputs: one tensor for each input."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import InlineBytes, InlineJson, PayloadRef, encode_request
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.open_inference_caller import infer, outputs, tensor
from tests.unit.gateway.test_gateway_named_inputs import LARGE_PNG, PNG, sent, write_catalogue

DONE = {"result": {"json": 1}}
PICTURE_ENTRY = """
[framed]
implementation = "worker.models.noop"
description = "Compares."
media_types = ["image/png"]
inputs.mask = {media_types = ["image/png"], optional = true}

[image-named]
implementation = "worker.models.noop"
description = "Compares."
media_types = ["image/png"]
inputs.image = {media_types = ["application/x-npy"]}
"""


@pytest.fixture
async def compared(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway with the model `compared` and two picture models with named inputs."""
    catalogue = write_catalogue(tmp_path)
    catalogue.write_text(catalogue.read_text("utf-8") + PICTURE_ENTRY, encoding="utf-8")
    async with open_gateway(catalogue_path=catalogue) as gateway:
        yield gateway


def named(name: str, *data: Any, **others: Any) -> dict[str, Any]:
    return {**tensor(*data, **others), "name": name}


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def refuse(
    gateway: RunningGateway, *tensors: dict[str, Any], model: str = "compared"
) -> tuple[int, str]:
    """Send a request that the gateway must refuse. Return the status and the error's text."""
    answer = await gateway.http.post(f"/v2/models/{model}/infer", json={"inputs": list(tensors)})
    assert list(answer.json()) == ["error"]
    assert not gateway.queues.sent
    return answer.status_code, answer.json()["error"]


async def test_metadata_lists_the_inputs(compared: RunningGateway) -> None:
    described = (await compared.http.get("/v2/models/compared")).json()
    assert described["inputs"] == [
        {
            "name": "input",
            "datatype": "BYTES",
            "shape": [-1],
            "parameters": {"content_types": "text/plain, application/json"},
        },
        {
            "name": "other",
            "datatype": "BYTES",
            "shape": [-1],
            "parameters": {"content_types": "image/png, text/plain"},
        },
        {
            "name": "note",
            "datatype": "BYTES",
            "shape": [-1],
            "parameters": {"content_types": "application/json", "optional": True},
        },
    ]


async def test_first_tensor_gets_a_free_name(compared: RunningGateway) -> None:
    for model, expected in (("framed", ["image", "mask"]), ("image-named", ["input", "image"])):
        described = (await compared.http.get(f"/v2/models/{model}")).json()
        assert [each["name"] for each in described["inputs"]] == expected


async def test_tensors_become_named_inputs(compared: RunningGateway) -> None:
    tensors = [
        named("note", 1, 2, datatype="INT32"),
        named("other", as_text(PNG), parameters={"content_type": "base64"}),
        named("input", "first"),
    ]
    answer = await infer(compared, "compared", {"inputs": tensors}, [DONE])
    assert outputs(answer)["result"]["data"] == ["1"]
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", b"first")
    assert request.inputs == {"note": InlineJson([1, 2]), "other": InlineBytes("image/png", PNG)}
    assert json.loads(encode_request(request))["schema"] == 2


async def test_text_can_be_a_json_string(compared: RunningGateway) -> None:
    tensors = [named("input", "first"), named("other", "second")]
    await infer(compared, "compared", {"inputs": tensors}, [DONE])
    assert compared.queues.request().inputs == {"other": InlineBytes("text/plain", b"second")}


async def test_inputs_can_be_binary_tensors(compared: RunningGateway) -> None:
    parts = {"input": b"first", "other": PNG}
    rest = b"".join(len(data).to_bytes(4, "little") + data for data in parts.values())
    tensors: list[dict[str, Any]] = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"binary_data_size": len(data) + 4},
        }
        for name, data in parts.items()
    ]
    tensors[0]["parameters"]["content_type"] = "text/plain"
    tensors.append(
        {"name": "note", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}}
    )
    rest += b"\0\0\x40\x3f"
    head = json.dumps({"inputs": tensors}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    answer = await infer(compared, "compared", head + rest, [DONE], headers)
    assert answer.status_code == 200, answer.text
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", b"first")
    assert request.inputs == {"other": InlineBytes("image/png", PNG), "note": InlineJson([0.75])}


async def test_elements_at_one_position_are_one_job(compared: RunningGateway) -> None:
    tensors = [named("other", "c", "d"), named("input", "a", "b")]
    answer = await infer(compared, "compared", {"inputs": tensors}, [DONE, DONE])
    assert outputs(answer)["result"]["data"] == ["1", "1"]
    found = [compared.queues.request(number) for number in (0, 1)]
    assert [each.input for each in found] == [
        InlineBytes("text/plain", text) for text in (b"a", b"b")
    ]
    assert [each.inputs["other"] for each in found] == [
        InlineBytes("text/plain", text) for text in (b"c", b"d")
    ]


async def test_upload_can_be_the_first_input(compared: RunningGateway) -> None:
    upload = await sent(compared, b"large", "text/plain", None)
    request = {"inputs": [named("other", "second")], "parameters": {"upload": upload}}
    answer = await infer(compared, "compared", request, [DONE])
    assert answer.status_code == 200, answer.text
    job = compared.queues.request()
    assert isinstance(job.input, PayloadRef)
    assert job.inputs == {"other": InlineBytes("text/plain", b"second")}
    refused = await compared.http.post(
        "/v2/models/compared/infer",
        json={**request, "inputs": [*request["inputs"], named("input", "first")]},
    )
    assert refused.status_code == 400
    assert "expected only the tensors of named inputs" in refused.json()["error"]


FIRST = named("input", "first")
OTHER = named("other", "second")


@pytest.mark.parametrize(
    ("tensors", "status", "said"),
    [
        ([FIRST], 422, "inputs.other: compared needs this input; send it "),
        ([FIRST, named("othr", "x")], 422, "inputs.other: compared needs this input"),
        ([FIRST, OTHER, named("nota", "x")], 422, "inputs.nota: compared has no such input"),
        ([OTHER], 400, "inputs: expected exactly one tensor for the first input (named 'input')"),
        ([OTHER, named("x", "a"), named("y", "b")], 400, "first input (named 'input'), found 2"),
        (
            [FIRST, named("other", "AA==", parameters={"content_type": "base64"})],
            415,
            "inputs.other: compared does not accept",
        ),
        (
            [FIRST, named("other", "?", parameters={"content_type": "base64"})],
            400,
            "inputs.other: an element is not valid base64",
        ),
        (
            [FIRST, named("other", as_text(LARGE_PNG), parameters={"content_type": "base64"})],
            422,
            "inputs.other: the picture has 65 by 65 pixels",
        ),
        ([FIRST, named("other", "")], 422, "inputs.other: the input is empty"),
        ([FIRST, named("other")], 400, "inputs.other: a request can have 1 to 64 elements"),
        (
            [FIRST, named("other", 1, datatype="INT8")],
            400,
            "inputs.other: expected exactly one tensor, with the datatype BYTES",
        ),
        (
            [FIRST, OTHER, named("note", *range(20), datatype="INT8")],
            413,
            "inputs.note: compared accepts at most 40 bytes",
        ),
        (
            [FIRST, named("other", "a", "b")],
            400,
            "inputs.other: the tensor has 2 elements, but the first input has 1; send one element",
        ),
        (
            [named("input", "a", "b"), named("other", "c", "d"), named("note", 1, datatype="INT8")],
            400,
            "inputs.note: the tensor has 1 elements, but the first input has 2",
        ),
        (
            [named("input", "a", "b"), named("other", "c", "")],
            422,
            "inputs.other: element 1: the input is empty",
        ),
    ],
)
async def test_invalid_inputs_are_refused(
    compared: RunningGateway, tensors: list[dict[str, Any]], status: int, said: str
) -> None:
    found, error = await refuse(compared, *tensors)
    assert found == status
    assert said in error


async def test_request_may_have_the_size_of_all_inputs(compared: RunningGateway) -> None:
    large = "x" * 200_000
    tensors = [named("input", large), named("other", large)]
    answer = await infer(compared, "compared", {"inputs": tensors}, [DONE])
    assert answer.status_code == 200, answer.text


async def test_repeat_with_other_inputs_is_refused(compared: RunningGateway) -> None:
    async def send(other: str, outcomes: list[dict[str, Any]]) -> httpx.Response:
        request = {"inputs": [FIRST, named("other", other)]}
        return await infer(compared, "compared", request, outcomes, {"idempotency-key": "key"})

    first = await send("second", [DONE])
    again = await send("second", [])
    assert again.json()["parameters"] == first.json()["parameters"]
    refused = await send("third", [])
    assert refused.status_code == 422
    assert "was first sent with a different request" in refused.json()["error"]
