"""Test the routes under /v2, for clients of the Open Inference Protocol."""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import (
    InlineBytes,
    InlineJson,
    PayloadRef,
    encode_request,
    payload_to_json,
)
from contract.names import result_blob
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway, write_catalogue
from tests.unit.gateway.named import COMPARED, as_base64, stored
from tests.unit.gateway.open_inference_caller import infer, outputs, tensor
from tests.unit.gateway.uploaded import NEVER_MADE, sent

PNG_TEXT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
PNG = base64.b64decode(PNG_TEXT)
CATS = [
    {"label": "Egyptian cat", "index": 285, "score": 0.75},
    {"label": "tabby", "index": 281, "score": 0.125},
]


async def test_picture_in_json_is_classified(gateway: RunningGateway) -> None:
    answer = await infer(
        gateway,
        "classifier",
        {"id": "mine", "inputs": [tensor(PNG_TEXT)]},
        [{"result": {"json": {"labels": CATS}}}],
    )
    found = outputs(answer)
    assert found["labels"] == {
        "name": "labels",
        "datatype": "BYTES",
        "shape": [1, 2],
        "data": ["Egyptian cat", "tabby"],
    }
    assert found["scores"]["data"] == [0.75, 0.125]
    assert found["indices"]["data"] == [285, 281]
    assert json.loads(found["result"]["data"][0]) == {"labels": CATS}
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("mine", "classifier", "1")
    job = await gateway.job(body["parameters"]["job_ids"])
    assert job["status"] == "succeeded"
    assert gateway.queues.request().input == InlineBytes("image/png", PNG)


async def test_tensors_are_sent_and_received_in_binary(gateway: RunningGateway) -> None:
    size = len(PNG) + 4
    value = {"name": "x", "datatype": "BYTES", "shape": [1]}
    head = json.dumps(
        {
            "inputs": [{**value, "parameters": {"binary_data_size": size}}],
            "outputs": [
                {"name": "scores", "parameters": {"binary_data": True}},
                {"name": "labels"},
            ],
        }
    ).encode()
    answer = await infer(
        gateway,
        "classifier",
        head + len(PNG).to_bytes(4, "little") + PNG,
        [{"result": {"json": {"labels": CATS}}}],
        {"inference-header-content-length": str(len(head))},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    scores, labels = json.loads(answer.content[:length])["outputs"]
    assert labels["data"] == ["Egyptian cat", "tabby"]
    assert scores["parameters"] == {"binary_data_size": 8}
    assert answer.content[length:] == b"\0\0\x40\x3f\0\0\0\x3e"


@pytest.mark.parametrize("is_kept", [True, False])
async def test_large_results_pass_from_their_blobs(gateway: RunningGateway, is_kept: bool) -> None:
    request = {"inputs": [tensor("a", "b")], "parameters": {"binary_data_output": True}}
    waiting = asyncio.create_task(gateway.http.post("/v2/models/noop/infer", json=request))
    await gateway.queues.wait_for(2)
    expected = b""
    for number in range(2):
        sent, data = gateway.queues.request(number), bytes([number]) * 5000
        ref = await gateway.payloads.put(result_blob(sent.job_id), data, "image/png")
        expected += len(data).to_bytes(4, "little") + data
        await gateway.reply(sent, result=payload_to_json(ref))
    if not is_kept:
        gateway.payloads.blobs.clear()
    answer = await waiting
    if not is_kept:
        assert answer.status_code == 404
        return
    length = int(answer.headers["inference-header-content-length"])
    (shown,) = json.loads(answer.content[:length])["outputs"]
    assert shown["parameters"] == {"content_type": "image/png", "binary_data_size": len(expected)}
    assert answer.content[length:] == expected
    assert answer.headers["content-length"] == str(len(answer.content))
    assert gateway.payloads.whole_reads == 0


async def test_each_element_is_a_job_in_order(gateway: RunningGateway) -> None:
    answer = await infer(
        gateway,
        "noop",
        {"inputs": [tensor("a", "b", "c")]},
        [{"result": {"json": number}} for number in range(3)],
    )
    assert outputs(answer)["result"]["data"] == ["0", "1", "2"]
    sent = [gateway.queues.request(number).input for number in range(3)]
    assert sent == [InlineBytes("text/plain", text) for text in (b"a", b"b", b"c")]
    assert len(answer.json()["parameters"]["job_ids"].split(",")) == 3


async def test_numeric_tensor_is_one_json_job(gateway: RunningGateway) -> None:
    request = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3.5, 4]}],
        "parameters": {"top": 3, "deadline_seconds": 7, "binary_data_output": False},
    }
    await infer(gateway, "noop", request, [{"result": {"json": 1}}])
    sent = gateway.queues.request()
    assert sent.input == InlineJson([[1, 2], [3.5, 4]])
    assert sent.parameters == {"top": 3}
    assert (sent.deadline - sent.created_at).total_seconds() == 7


async def test_several_tensors_are_one_json_object(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor(1, datatype="INT8"), {**tensor("a"), "name": "y"}]}
    await infer(gateway, "noop", request, [{"result": {"json": 1}}])
    assert gateway.queues.request().input == InlineJson({"x": [1], "y": ["a"]})


async def test_binary_result_is_base64(gateway: RunningGateway) -> None:
    mask = {"base64": PNG_TEXT, "media_type": "image/png"}
    answer = await infer(gateway, "noop", {"inputs": [tensor("a")]}, [{"result": mask}])
    result = outputs(answer)["result"]
    assert result["parameters"] == {"content_type": "image/png"}
    assert base64.b64decode(result["data"][0]) == PNG


async def test_error_names_the_failed_element(gateway: RunningGateway) -> None:
    answer = await infer(
        gateway,
        "noop",
        {"inputs": [tensor("a", "b")]},
        [{"result": {"json": 1}}, {"error": error_body("invalid-input")}],
    )
    assert answer.status_code == 422
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith("element 1: it did not work (job ")


async def test_timeout_error_has_the_url_of_the_job(gateway: RunningGateway) -> None:
    answer = await gateway.http.post(
        "/v2/models/noop/infer", json={"inputs": [tensor("a")]}, headers={"prefer": "wait=0"}
    )
    assert answer.status_code == 504
    assert "its status is at /v1/jobs/" in answer.json()["error"]


@pytest.mark.parametrize(
    ("model", "request_body", "status", "named"),
    [
        ("clasifier", {}, 404, "classifier"),
        ("classifier", {}, 400, "inputs"),
        ("classifier", {"inputs": [tensor("?")]}, 400, "base64"),
        ("classifier", {"inputs": [tensor("QUJD")]}, 415, "image/png"),
        (
            "classifier",
            {"inputs": [tensor(1, datatype="INT8")]},
            400,
            "one tensor, with the datatype BYTES",
        ),
        ("classifier", {"inputs": [tensor()]}, 400, "1 to 64"),
        ("noop", {"inputs": [tensor(*"a" * 65)]}, 400, "1 to 64"),
        ("noop", {"inputs": [tensor("")]}, 422, "empty"),
        ("noop", {"inputs": [tensor("\ud800")]}, 400, "Unicode"),
        ("noop", {"inputs": [tensor("a")], "outputs": [{"name": "labels"}]}, 400, "result"),
        (
            "noop",
            {"inputs": [tensor("a")], "parameters": {"deadline_seconds": 0}},
            400,
            "deadline_seconds",
        ),
    ],
)
async def test_refusal_has_the_format_of_the_protocol(
    gateway: RunningGateway, model: str, request_body: dict[str, Any], status: int, named: str
) -> None:
    answer = await gateway.http.post(
        f"/v2/models/{model}/infer", content=json.dumps(request_body).encode()
    )
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert named in answer.json()["error"]
    assert gateway.durable.runs == {}


async def test_every_error_under_v2_has_the_format(gateway: RunningGateway) -> None:
    for method, path, status in (
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/noop/infer", 405),
        ("GET", "/v2/models/noop/versions/2", 404),
        ("GET", "/v2/models/noop/versions/2/ready", 404),
        ("POST", "/v2/models/noop/versions/2/infer", 404),
    ):
        answer = await gateway.http.request(method, path)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), path
    gateway.durable.is_down = True
    answer = await gateway.http.post("/v2/models/noop/infer", json={"inputs": [tensor("a")]})
    assert (answer.status_code, list(answer.json())) == (503, ["error"])


async def test_metadata_describes_server_and_models(gateway: RunningGateway) -> None:
    get = gateway.http.get
    assert (await get("/v2")).json()["extensions"] == ["binary_tensor_data"]
    assert (await get("/v2/health/live")).json() == {"live": True}
    assert (await get("/v2/health/ready")).json() == {"ready": True}
    for path in ("/v2/models/classifier", "/v2/models/classifier/versions/1"):
        described = (await get(path)).json()
        assert described["versions"] == ["1"]
        assert described["inputs"][0]["datatype"] == "BYTES"
        names = [output["name"] for output in described["outputs"]]
        assert names == ["labels", "indices", "scores", "result"]
        assert (await get(f"{path}/ready")).json() == {"name": "classifier", "ready": True}


async def test_model_is_not_ready_while_a_service_is_down(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    assert (await gateway.http.get("/v2/health/ready")).status_code == 503
    assert (await gateway.http.get("/v2/models/noop/ready")).status_code == 503


async def test_large_result_is_read_from_blobs(gateway: RunningGateway) -> None:
    waiting = asyncio.create_task(
        gateway.http.post("/v2/models/noop/infer", json={"inputs": [tensor("a")]})
    )
    await gateway.queues.has_sent.wait()
    data = json.dumps(["x" * 50_000]).encode()
    job_id = gateway.queues.request().job_id
    await gateway.reply(result=stored(gateway, job_id, data, "application/json"))
    assert outputs(await waiting)["result"]["data"] == [data.decode()]


async def test_request_waits_despite_respond_async(gateway: RunningGateway) -> None:
    request, headers = {"inputs": [tensor("a")]}, {"prefer": "respond-async"}
    answer = await infer(gateway, "noop", request, [{"result": {"json": 1}}], headers)
    assert outputs(answer)["result"]["data"] == ["1"]


async def test_expired_job_names_the_deadline(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor("a")], "parameters": {"deadline_seconds": 7}}
    waiting = asyncio.create_task(gateway.http.post("/v2/models/noop/infer", json=request))
    await gateway.queues.has_sent.wait()
    await gateway.durable.advance(8)
    answer = await waiting
    assert (answer.status_code, answer.json()["ran"]) == (504, None)
    assert "deadline" in answer.json()["error"]


async def test_upload_is_accepted_as_input(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"large", "text/plain")
    request = {"inputs": [], "parameters": {"upload": upload, "top": 3}}
    answer = await infer(gateway, "noop", request, [{"result": {"json": 1}}])
    assert outputs(answer)["result"]["data"] == ["1"]
    job = gateway.queues.request()
    assert isinstance(job.input, PayloadRef)
    assert (job.input.media_type, job.input.size_bytes) == ("text/plain", 5)
    assert job.parameters == {"top": 3}


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        ({"inputs": [tensor("a")], "parameters": {"upload": "x"}}, 400),
        ({"inputs": [], "parameters": {"upload": 7}}, 400),
        ({"inputs": [], "parameters": {"upload": None}}, 400),
        ({"inputs": []}, 400),
        ({"parameters": {"upload": "x"}}, 400),
        ({"inputs": [], "parameters": {"upload": NEVER_MADE}}, 422),
    ],
)
async def test_invalid_upload_is_refused(
    gateway: RunningGateway, request_body: dict[str, Any], status: int
) -> None:
    answer = await gateway.http.post("/v2/models/noop/infer", json=request_body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert gateway.durable.runs == {}


@pytest.mark.parametrize(
    ("priority", "queue"), [("low", "noop-low"), ("normal", "noop"), (1, "noop")]
)
async def test_priority_selects_the_queue_unless_a_number(
    gateway: RunningGateway, priority: Any, queue: str
) -> None:
    request = {"inputs": [tensor("a")], "parameters": {"priority": priority}}
    await infer(gateway, "noop", request, [{"result": {"json": 1}}])
    assert gateway.queues.sent[-1][0] == queue
    assert gateway.queues.request().parameters == {}


async def infer_again(gateway: RunningGateway, key: str, request: dict[str, Any]) -> httpx.Response:
    """Repeat an inference request. No worker replies, so a result is that of an earlier job."""
    return await gateway.http.post(
        "/v2/models/noop/infer", json=request, headers={"idempotency-key": key}
    )


async def test_repeat_gets_the_same_jobs(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor("a", "b", "c")]}
    outcomes = [{"result": {"json": number}} for number in range(3)]
    first = await infer(gateway, "noop", request, outcomes, {"idempotency-key": "one"})
    assert first.status_code == 200, first.text
    assert "idempotency-replayed" not in first.headers
    again = await infer_again(gateway, "one", request)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(gateway.durable.runs) == 3


@pytest.mark.parametrize(
    "request_body",
    [
        {"inputs": [tensor("a", "c")]},
        {"inputs": [tensor("a")]},
        {"inputs": [tensor("a", "b", "c")]},
        {"inputs": [tensor("a", "b")], "parameters": {"top": 3}},
        {"inputs": [tensor("a", "b")], "parameters": {"priority": "low"}},
    ],
)
async def test_different_request_starts_no_job(
    gateway: RunningGateway, request_body: dict[str, Any]
) -> None:
    outcomes = [{"result": {"json": number}} for number in range(2)]
    key = {"idempotency-key": "one"}
    await infer(gateway, "noop", {"inputs": [tensor("a", "b")]}, outcomes, key)
    refused = await infer_again(gateway, "one", request_body)
    assert (refused.status_code, list(refused.json())) == (422, ["error"])
    assert "Idempotency-Key" in refused.json()["error"]
    assert len(gateway.durable.runs) == 2


async def test_v1_and_v2_share_the_keys(gateway: RunningGateway) -> None:
    headers = {"idempotency-key": "one", "content-type": "text/plain"}
    answer = await gateway.submit(content=b"a", headers=headers)
    assert answer.status_code == 202
    refused = await infer_again(gateway, "one", {"inputs": [tensor("a")]})
    assert refused.status_code == 422
    assert len(gateway.durable.runs) == 1


async def test_simultaneous_requests_create_jobs_once(gateway: RunningGateway) -> None:
    request = {"inputs": [tensor("a", "b")]}
    callers = [asyncio.create_task(infer_again(gateway, "one", request)) for _ in range(16)]
    await gateway.queues.wait_for(2)
    for number in range(2):
        await gateway.reply(gateway.queues.request(number), result={"json": number})
    answers = await asyncio.gather(*callers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(gateway.durable.runs) == 2


async def test_repeat_starts_the_jobs_that_were_not_started(gateway: RunningGateway) -> None:
    gateway.durable.starts_left = 1
    request = {"inputs": [tensor("a", "b")]}
    headers = {"idempotency-key": "one", "prefer": "wait=0"}
    answer = await gateway.http.post("/v2/models/noop/infer", json=request, headers=headers)
    assert answer.status_code == 503
    assert len(gateway.durable.runs) == 1
    gateway.durable.starts_left = math.inf
    outcomes = [{"result": {"json": number}} for number in range(2)]
    answer = await infer(gateway, "noop", request, outcomes, {"idempotency-key": "one"})
    assert outputs(answer)["result"]["data"] == ["0", "1"]
    assert len(gateway.durable.runs) == 2


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
