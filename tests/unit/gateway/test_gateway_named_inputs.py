"""Test jobs with named inputs: how callers send them, and what the gateway does with each input."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from contract.messages import (
    INPUT_INLINE_LIMIT_BYTES,
    InlineBytes,
    InlineJson,
    PayloadRef,
    PayloadUrl,
    encode_request,
)
from gateway.keys import OPEN_TENANT
from gateway.rates import Rate
from gateway.storage import uploads
from tests.unit.gateway.conftest import RunningGateway, open_gateway, write_catalogue
from tests.unit.gateway.dead_letters import give_up
from tests.unit.gateway.named import COMPARED, LARGE_PNG, PNG, as_base64
from tests.unit.gateway.open_inference_caller import infer, tensor
from tests.unit.gateway.uploaded import sent

PATH = "/v1/models/compared/jobs"
OTHER = {"text": "second"}
LARGE = {"text": "x" * 100_000}


@pytest.fixture
async def compared(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway with a model that has a required and an optional named input."""
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, COMPARED)) as gateway:
        yield gateway


async def submit(
    gateway: RunningGateway, inputs: object = None, key: str | None = None, **members: Any
) -> httpx.Response:
    """Submit a job with named inputs in a JSON body, with an idempotency key if it is given."""
    document = {"input": {"text": "first"}, "inputs": inputs, **members}
    headers = {"idempotency-key": key} if key else {}
    return await gateway.submit("compared", json=document, headers=headers)


async def submit_form(
    gateway: RunningGateway, *parts: tuple[str, tuple[Any, ...]]
) -> httpx.Response:
    files = [("file", ("a.txt", b"first", "text/plain")), *parts]
    return await gateway.submit("compared", files=files)


@pytest.mark.parametrize("announced", ["image/png", "application/octet-stream"])
async def test_form_parts_become_named_inputs(compared: RunningGateway, announced: str) -> None:
    note = ("note", ("c", b"[1]", "application/json"))
    answer = await submit_form(compared, ("other", ("b", PNG, announced)), note)
    assert answer.status_code == 202, answer.text
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", b"first")
    assert request.inputs == {"other": InlineBytes("image/png", PNG), "note": InlineJson([1])}
    assert json.loads(encode_request(request))["schema"] == 2


async def test_json_body_gives_an_input_from_any_source(compared: RunningGateway) -> None:
    upload = await sent(compared, PNG, "image/png", "compared", input="other")
    blob = uploads.upload_blob_of(upload, OPEN_TENANT)
    reference = PayloadRef("image/png", blob, len(PNG), None, compared.blobs.etags[blob])
    url = "https://93.184.216.34/b.png"
    for source, expected in (
        (OTHER, InlineBytes("text/plain", b"second")),
        ({"base64": as_base64(PNG)}, InlineBytes("image/png", PNG)),
        ({"upload": upload}, reference),
        ({"url": url, "media_type": "image/png"}, PayloadUrl(url, "image/png")),
    ):
        answer = await submit(compared, {"other": source, "note": {"json": {"a": 1}}})
        assert answer.status_code == 202, answer.text
        found = compared.queues.request().inputs
        assert found == {"other": expected, "note": InlineJson({"a": 1})}


async def test_upload_has_the_limits_of_its_input(compared: RunningGateway) -> None:
    asked = {"model": "compared", "media_type": "application/json"}
    found = (await compared.http.post("/v1/uploads", json={**asked, "input": "note"})).json()
    assert (found["max_bytes"], found["media_types"]) == (40, ["application/json"])
    for name, status, code, pointer in (
        ("other", 415, "unsupported-media-type", "/inputs/other"),
        ("mask", 422, "invalid-input", "/inputs/mask"),
        (1, 400, "malformed-request", None),
    ):
        refused = await compared.http.post("/v1/uploads", json={**asked, "input": name})
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (status, code)
        assert problem.get("pointer") == pointer


async def test_upload_of_another_tenant_is_refused(compared: RunningGateway) -> None:
    upload = await sent(compared, PNG, "image/png", "compared", input="other")
    mine, theirs = (uploads.upload_blob_of(upload, each) for each in (OPEN_TENANT, "someone-else"))
    compared.blobs.put(theirs, PNG, "image/png")
    del compared.payloads.blobs[mine]
    refused = await submit(compared, {"other": {"upload": upload}})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-input")
    assert refused.json()["detail"].startswith("inputs.other: there is no upload")


REFUSED: list[tuple[object, int, str, str]] = [
    (None, 422, "/inputs/other", "inputs.other: compared needs this input"),
    ({"note": {"json": 1}}, 422, "/inputs/other", "inputs.other: compared needs this input"),
    ({"other": OTHER, "a/b~": OTHER}, 422, "/inputs/a~1b~0", "no such input; its named inputs are"),
    ({"other": {"base64": "AAA="}}, 415, "/inputs/other", "compared does not accept"),
    ({"other": {"json": 1}}, 415, "/inputs/other", "accepted media types are image/png, text/pla"),
    ({"other": {"base64": as_base64(LARGE_PNG)}}, 422, "/inputs/other", "has 65 by 65 pixels"),
    ({"other": OTHER, "note": {"json": "x" * 40}}, 413, "/inputs/note", "accepts at most 40 bytes"),
    ({"other": {"text": ""}}, 422, "/inputs/other", "inputs.other: the input is empty"),
    ({"other": {"upload": "none"}}, 422, "/inputs/other", "inputs.other: there is no upload"),
    ({"other": {"url": "http://10.0.0.1/"}}, 422, "/inputs/other", "inputs.other.url: "),
    ({"other": {"base64": "%"}}, 400, "/inputs/other", "inputs.other.base64: the value is not"),
    ({"other": {}}, 400, "/inputs/other", "inputs.other: expected exactly one of the members"),
    ({"other": {"text": "a", "x": 1}}, 400, "/inputs/other", "unknown member inputs.other.x"),
    ({"other": 1}, 400, "/inputs/other", "inputs.other: expected a JSON object such as"),
]


@pytest.mark.parametrize(("inputs", "status", "pointer", "said"), REFUSED)
async def test_invalid_input_is_refused_with_a_pointer(
    compared: RunningGateway, inputs: object, status: int, pointer: str, said: str
) -> None:
    refused = await submit(compared, inputs)
    problem = refused.json()
    assert (refused.status_code, problem["pointer"]) == (status, pointer)
    assert said in problem["detail"]
    assert not compared.durable.runs
    assert not compared.queues.sent


PART = ("other", ("b.png", PNG, "image/png"))


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([], 422, "inputs.other: compared needs this input"),
        ([PART, PART], 400, "inputs.other: the form must have exactly one part named other,"),
        ([("other", (None, b"text"))], 400, "this part must have a file name"),
        ([PART, ("mask", ("c", b"x", "text/plain"))], 400, "unknown part 'mask'"),
        ([("other", ("b", b"{}", "application/json"))], 415, "inputs.other: compared does not"),
    ],
)
async def test_invalid_form_is_refused(
    compared: RunningGateway, parts: list[Any], status: int, said: str
) -> None:
    refused = await submit_form(compared, *parts)
    assert refused.status_code == status
    assert said in refused.json()["detail"]
    assert not compared.queues.sent


async def test_raw_body_without_a_required_input_is_refused(compared: RunningGateway) -> None:
    raw = await compared.http.post(PATH, content=b"x", headers={"content-type": "text/plain"})
    inference = await infer(compared, "compared", {"inputs": [tensor("a")]}, [])
    for refused in (raw, inference):
        assert refused.status_code == 422
        assert "inputs.other: compared needs this input" in refused.text


async def test_model_without_named_inputs_refuses_them(gateway: RunningGateway) -> None:
    for inputs, status in (({}, 202), (None, 202), ({"mask": {"text": "x"}}, 422), ([], 400)):
        answer = await gateway.submit(json={"input": {"text": "x"}, "inputs": inputs})
        assert answer.status_code == status
    assert json.loads(encode_request(gateway.queues.request()))["schema"] == 1


async def test_inputs_over_the_inline_limit_are_stored(compared: RunningGateway) -> None:
    half = "x" * (INPUT_INLINE_LIMIT_BYTES // 2 + 1)
    answer = await submit(compared, {"other": {"text": half}}, input={"text": half})
    request, job_id = compared.queues.request(), answer.json()["id"]
    assert request.input == InlineBytes("text/plain", half.encode())
    stored = request.inputs["other"]
    assert isinstance(stored, PayloadRef)
    assert stored.blob == f"inputs/{job_id}/other"
    assert compared.payloads.blobs[stored.blob] == ("text/plain", half.encode())


async def test_message_after_an_outage_has_all_inputs(compared: RunningGateway) -> None:
    part = "x" * 20_000
    compared.queues.is_down = True
    answer = await submit(compared, {"other": {"text": part}}, input={"text": part})
    compared.queues.is_down = False
    await compared.durable.advance(2)
    request = compared.queues.request()
    assert request.input == InlineBytes("text/plain", part.encode())
    stored = request.inputs["other"]
    assert isinstance(stored, PayloadRef)
    assert stored.blob == f"inputs/{answer.json()['id']}/other"
    assert compared.payloads.blobs[stored.blob] == ("text/plain", part.encode())


async def dead_job(gateway: RunningGateway) -> str:
    """Submit a job with a large named input, dead-letter its message, and return the job's id."""
    job_id = str((await submit(gateway, {"other": LARGE, "note": {"json": 1}})).json()["id"])
    await give_up(gateway, encode_request(gateway.queues.request()), job_id, queue="compared")
    return job_id


async def test_redrive_sends_all_inputs(compared: RunningGateway) -> None:
    path = f"/v1/admin/dead-letters/compared/{await dead_job(compared)}"
    letter = (await compared.http.get(path)).json()
    assert letter["input"] == {"kind": "inline", "media_type": "text/plain", "size_bytes": 5}
    assert letter["inputs"] == {
        "other": {"kind": "blob", "media_type": "text/plain", "size_bytes": 100_000},
        "note": {"kind": "inline", "media_type": "application/json", "size_bytes": 1},
    }
    before = compared.queues.request()
    assert (await compared.http.post(f"{path}/redrive")).status_code == 202
    await compared.durable.advance(2)
    after = compared.queues.request()
    assert after.job_id != before.job_id
    assert (after.input, after.inputs) == (before.input, before.inputs)


async def test_redrive_without_a_stored_input_is_refused(compared: RunningGateway) -> None:
    job_id = await dead_job(compared)
    del compared.payloads.blobs[f"inputs/{job_id}/other"]
    refused = await compared.http.post(f"/v1/admin/dead-letters/compared/{job_id}/redrive")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-redrivable")
    assert "input no longer exists" in refused.json()["detail"]


async def test_each_url_counts_towards_the_rate(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path, COMPARED)
    async with open_gateway(catalogue_path=path, url_input_rate=Rate(1, 60)) as gateway:
        url = {"url": "https://93.184.216.34/b.txt", "media_type": "text/plain"}
        refused = await submit(gateway, {"other": url}, input=url)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
        assert refused.json()["detail"].startswith("inputs.other.url: ")


async def test_repeat_with_other_inputs_is_refused(compared: RunningGateway) -> None:
    first, again = [await submit(compared, {"other": OTHER}, "key") for _ in range(2)]
    assert again.json()["id"] == first.json()["id"]
    for inputs in ({"other": {"text": "third"}}, {"other": OTHER, "note": {"json": 1}}):
        refused = await submit(compared, inputs, "key")
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-mismatch")


async def test_simultaneous_repeats_store_one_copy(compared: RunningGateway) -> None:
    answers = await asyncio.gather(*(submit(compared, {"other": LARGE}, "key") for _ in range(8)))
    (job_id,) = {answer.json()["id"] for answer in answers}
    stored = [name for name in compared.payloads.blobs if name.startswith("inputs/")]
    assert stored == [f"inputs/{job_id}/other"]


async def test_model_describes_its_inputs(compared: RunningGateway) -> None:
    described = (await compared.http.get("/v1/models/compared")).json()
    assert described["inputs"] == {
        "other": {
            "description": "B.",
            "media_types": ["image/png", "text/plain"],
            "required": True,
            "limits": {"input_bytes": 200_000, "upload_bytes": 200_000, "pixels": 4096},
        },
        "note": {
            "description": "",
            "media_types": ["application/json"],
            "required": False,
            "limits": {"input_bytes": 40, "upload_bytes": 40, "pixels": None},
        },
    }
    assert (await compared.http.get("/v1/models/noop")).json()["inputs"] == {}


async def test_openapi_describes_the_inputs(compared: RunningGateway) -> None:
    document = (await compared.http.get("/openapi.json")).json()
    body = document["paths"][PATH]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    form = body["multipart/form-data"]["schema"]
    assert form["required"] == ["file", "other"]
    assert form["properties"]["note"]["format"] == "binary"
    validator = Draft202012Validator({**document, **body["application/json"]["schema"]})
    for inputs, is_valid in (
        ({"other": OTHER}, True),
        ({"other": OTHER, "note": {"json": 1}}, True),
        ({"note": {"json": 1}}, False),
        ({"other": OTHER, "mask": OTHER}, False),
        ({"other": {}}, False),
        (None, False),
    ):
        assert validator.is_valid({"input": OTHER, "inputs": inputs}) is is_valid
