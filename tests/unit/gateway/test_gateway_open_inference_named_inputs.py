"""Test requests to /v2 for a model with named inputs: one tensor for each input."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import InlineBytes, InlineJson, PayloadRef, encode_request
from tests.unit.gateway.conftest import RunningGateway, open_gateway, write_catalogue
from tests.unit.gateway.named import COMPARED, PNG, as_base64
from tests.unit.gateway.open_inference_caller import infer, outputs, tensor
from tests.unit.gateway.uploaded import sent

DONE = {"result": {"json": 1}}
BASE64 = {"parameters": {"content_type": "base64"}}
PICTURES = """
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
    path = write_catalogue(tmp_path, COMPARED, PICTURES)
    async with open_gateway(catalogue_path=path) as gateway:
        yield gateway


def named(name: str, *data: Any, **others: Any) -> dict[str, Any]:
    return {**tensor(*data, **others), "name": name}


FIRST, OTHER = named("input", "first"), named("other", "second")


async def test_metadata_lists_the_inputs(compared: RunningGateway) -> None:
    described = (await compared.http.get("/v2/models/compared")).json()
    expected: dict[str, dict[str, Any]] = {
        "input": {"content_types": "text/plain, application/json"},
        "other": {"content_types": "image/png, text/plain"},
        "note": {"content_types": "application/json", "optional": True},
    }
    assert described["inputs"] == [
        {"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters}
        for name, parameters in expected.items()
    ]


async def test_first_tensor_gets_a_free_name(compared: RunningGateway) -> None:
    for model, expected in (("framed", ["image", "mask"]), ("image-named", ["input", "image"])):
        described = (await compared.http.get(f"/v2/models/{model}")).json()
        assert [each["name"] for each in described["inputs"]] == expected


async def test_tensors_become_named_inputs(compared: RunningGateway) -> None:
    tensors = [named("note", 1, 2, datatype="INT32"), named("other", as_base64(PNG), **BASE64)]
    answer = await infer(compared, "compared", {"inputs": [*tensors, FIRST]}, [DONE])
    assert outputs(answer)["result"]["data"] == ["1"]
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", b"first")
    assert request.inputs == {"note": InlineJson([1, 2]), "other": InlineBytes("image/png", PNG)}
    assert json.loads(encode_request(request))["schema"] == 2


async def test_text_can_be_a_json_string(compared: RunningGateway) -> None:
    await infer(compared, "compared", {"inputs": [FIRST, OTHER]}, [DONE])
    assert compared.queues.request().inputs == {"other": InlineBytes("text/plain", b"second")}


async def test_inputs_can_be_binary_tensors(compared: RunningGateway) -> None:
    number = b"\0\0\x40\x3f"  # 0.75
    parts = {"input": b"\5\0\0\0first", "other": len(PNG).to_bytes(4, "little") + PNG}
    tensors: list[dict[str, Any]] = [
        {"name": name, "datatype": kind, "shape": [1], "parameters": {"binary_data_size": size}}
        for name, kind, size in (
            *((name, "BYTES", len(data)) for name, data in parts.items()),
            ("note", "FP32", len(number)),
        )
    ]
    tensors[0]["parameters"]["content_type"] = "text/plain"
    head = json.dumps({"inputs": tensors}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    body = b"".join([head, *parts.values(), number])
    answer = await infer(compared, "compared", body, [DONE], headers)
    assert answer.status_code == 200, answer.text
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", b"first")
    assert request.inputs == {"other": InlineBytes("image/png", PNG), "note": InlineJson([0.75])}


async def test_elements_at_one_position_are_one_job(compared: RunningGateway) -> None:
    tensors = [named("other", "c", "d"), named("input", "a", "b")]
    answer = await infer(compared, "compared", {"inputs": tensors}, [DONE, DONE])
    assert outputs(answer)["result"]["data"] == ["1", "1"]
    found = [compared.queues.request(number) for number in (0, 1)]
    assert [(each.input, each.inputs["other"]) for each in found] == [
        tuple(InlineBytes("text/plain", text) for text in pair)
        for pair in ((b"a", b"c"), (b"b", b"d"))
    ]


async def test_upload_can_be_the_first_input(compared: RunningGateway) -> None:
    upload = await sent(compared, b"large", "text/plain", "compared")
    request = {"inputs": [OTHER], "parameters": {"upload": upload}}
    answer = await infer(compared, "compared", request, [DONE])
    assert answer.status_code == 200, answer.text
    job = compared.queues.request()
    assert isinstance(job.input, PayloadRef)
    assert job.inputs == {"other": InlineBytes("text/plain", b"second")}
    refused = await infer(compared, "compared", {**request, "inputs": [OTHER, FIRST]}, [])
    assert refused.status_code == 400
    assert "expected only the tensors of named inputs" in refused.json()["error"]


TWO = [named("input", "a", "b"), named("other", "c", "d")]
FIRST_MISSING = "inputs: expected exactly one tensor for the first input (named 'input')"
REFUSED: list[tuple[list[dict[str, Any]], int, str]] = [
    ([FIRST], 422, "inputs.other: compared needs this input; send it "),
    ([FIRST, named("othr", "x")], 422, "inputs.other: compared needs this input"),
    ([FIRST, OTHER, named("nota", "x")], 422, "inputs.nota: compared has no such input"),
    ([OTHER], 400, FIRST_MISSING),
    ([OTHER, named("x", "a"), named("y", "b")], 400, "first input (named 'input'), found 2"),
    ([FIRST, named("other", "AA==", **BASE64)], 415, "inputs.other: compared does not accept"),
    ([FIRST, named("other", "?", **BASE64)], 400, "inputs.other: an element is not valid base64"),
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
        [*TWO, named("note", 1, datatype="INT8")],
        400,
        "inputs.note: the tensor has 1 elements, but the first input has 2",
    ),
    ([TWO[0], named("other", "c", "")], 422, "inputs.other: element 1: the input is empty"),
]


@pytest.mark.parametrize(("tensors", "status", "said"), REFUSED)
async def test_invalid_inputs_are_refused(
    compared: RunningGateway, tensors: list[dict[str, Any]], status: int, said: str
) -> None:
    answer = await infer(compared, "compared", {"inputs": tensors}, [])
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert not compared.queues.sent


async def test_request_may_have_the_size_of_all_inputs(compared: RunningGateway) -> None:
    tensors = [named(name, "x" * 200_000) for name in ("input", "other")]
    answer = await infer(compared, "compared", {"inputs": tensors}, [DONE])
    assert answer.status_code == 200, answer.text


async def test_repeat_with_other_inputs_is_refused(compared: RunningGateway) -> None:
    async def send(other: str, outcomes: list[dict[str, Any]]) -> httpx.Response:
        request = {"inputs": [FIRST, named("other", other)]}
        return await infer(compared, "compared", request, outcomes, {"idempotency-key": "key"})

    first, again = await send("second", [DONE]), await send("second", [])
    assert again.json()["parameters"] == first.json()["parameters"]
    refused = await send("third", [])
    assert refused.status_code == 422
    assert "was first sent with a different request" in refused.json()["error"]
