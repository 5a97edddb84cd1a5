"""Test results in the job: text, and named results, which workers send and callers read."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from contract.messages import INLINE_LIMIT_BYTES
from contract.named_tables import MAX_RESULT_BYTES
from contract.names import result_blob
from tests.unit.gateway.api_keys import SETTING, ask, bearer
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway, write_catalogue
from tests.unit.gateway.named import CUTTER, as_base64, stored
from tests.unit.gateway.open_inference_caller import infer, outputs, tensor
from tests.unit.gateway.webhook_delivery import HOOKS, URL, deliver, receiver

PNG = {"media_type": "image/png", "base64": "iVBORw=="}
BOXES = {"media_type": "application/json", "json": [[1, 2]]}
RESULT = {"media_type": "application/json", "json": {"n": 1}}


@pytest.fixture
async def cutter(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway with a model that has a required and an optional named result."""
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, CUTTER)) as gateway:
        yield gateway


def outcome(**results: Any) -> dict[str, Any]:
    return {"schema": 2, "result": RESULT, "results": results}


async def ended(gateway: RunningGateway, **results: Any) -> str:
    """Submit a job, reply to it with these named results, and return the job's id."""
    job_id = await gateway.accept(model="cutter")
    answer = await gateway.reply(**outcome(**results))
    assert answer.status_code == 202, answer.text
    return job_id


async def test_job_links_results_and_shows_small_json(cutter: RunningGateway) -> None:
    job_id = await ended(cutter, mask=PNG, boxes=BOXES)
    job, path = await cutter.job(job_id), f"/v1/jobs/{job_id}"
    assert (job["status"], job["result"]) == ("succeeded", {"n": 1})
    assert job["results"] == {
        "mask": {"media_type": "image/png", "link": f"{path}/result/mask"},
        "boxes": {
            "media_type": "application/json",
            "json": [[1, 2]],
            "link": f"{path}/result/boxes",
        },
    }
    assert job["links"]["result"] == f"{path}/result"
    (listed,) = (await cutter.get("/v1/jobs"))["jobs"]
    assert listed == job


async def test_job_without_results_has_an_empty_object(cutter: RunningGateway) -> None:
    job_id = await cutter.accept(model="cutter")
    assert (await cutter.job(job_id))["results"] == {}
    await cutter.reply(error=error_body("inference-failed"))
    assert (await cutter.job(job_id))["results"] == {}


async def test_result_has_its_media_type_and_etag(cutter: RunningGateway) -> None:
    path = f"/v1/jobs/{await ended(cutter, mask=PNG, boxes=BOXES)}/result"
    mask, boxes, first = [
        await cutter.http.get(each) for each in (f"{path}/mask", f"{path}/boxes", path)
    ]
    assert (mask.headers["content-type"], mask.content) == ("image/png", b"\x89PNG")
    assert mask.headers["x-content-type-options"] == "nosniff"
    assert (boxes.headers["content-type"], boxes.json()) == ("application/json", [[1, 2]])
    assert first.json() == {"n": 1}
    tags = {answer.headers["etag"] for answer in (mask, boxes, first)}
    assert len(tags) == 3
    again = await cutter.http.get(f"{path}/mask", headers={"if-none-match": mask.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = await cutter.http.head(f"{path}/mask")
    assert (head.status_code, head.content) == (200, b"")


async def test_large_result_is_a_signed_link(cutter: RunningGateway) -> None:
    job_id = await cutter.accept(model="cutter")
    mask, boxes = (
        stored(cutter, job_id, bytes(500_000), media_type)
        for media_type in ("image/png", "application/json")
    )
    assert (await cutter.reply(**outcome(mask=mask, boxes=boxes))).status_code == 202
    job = await cutter.job(job_id)
    assert [sorted(each) for each in job["results"].values()] == [["link", "media_type"]] * 2
    assert "results/" not in json.dumps(job)
    for name, reference, suffix in (("mask", mask, "png"), ("boxes", boxes, "json")):
        answer = await cutter.http.get(job["results"][name]["link"])
        assert (answer.status_code, answer.headers["cache-control"]) == (303, "no-store")
        link = httpx.URL(answer.headers["location"])
        assert link.path == f"/{reference['blob']}"
        assert link.params["rscd"] == f"{job_id}-{name}.{suffix}"
    del cutter.payloads.blobs[mask["blob"]]
    assert (await cutter.http.get(job["results"]["mask"]["link"])).status_code == 404
    assert (await cutter.http.get(job["results"]["boxes"]["link"])).status_code == 303


async def test_missing_result_gets_404(cutter: RunningGateway) -> None:
    job_id = await ended(cutter, mask=PNG)
    for name in ("boxes", "result", "Mask", "%2e%2e", "..%2freply"):
        answer = await cutter.http.get(f"/v1/jobs/{job_id}/result/{name}")
        assert answer.status_code == 404, name
    answer = await cutter.http.get(f"/v1/jobs/{job_id}/result/boxes")
    assert answer.json()["code"] == "unknown-result"
    assert answer.json()["detail"] == (
        "the job has no named result 'boxes'; its named results are: mask"
    )
    assert answer.json()["job"]["results"].keys() == {"mask"}


async def test_only_the_tenant_can_read_results(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path, CUTTER)
    async with open_gateway(api_keys=SETTING, catalogue_path=path) as gateway:
        headers = {**bearer("a"), "content-type": "application/octet-stream"}
        answer = await gateway.submit("cutter", content=b"x", headers=headers)
        job = f"/v1/jobs/{answer.json()['id']}"
        await gateway.reply(**outcome(mask=PNG, boxes=BOXES))
        for key, status in (("a", 200), ("b", 404), ("watcher", 403)):
            assert (await ask(gateway, key, f"{job}/result/mask")).status_code == status
        assert (await gateway.http.get(f"{job}/result/mask")).status_code == 401
        assert (await ask(gateway, "a", job)).json()["results"]["boxes"]["json"] == [[1, 2]]
        shown = (await ask(gateway, "watcher", job)).json()
        assert shown["tenant"] == "acme"
        assert [sorted(each) for each in shown["results"].values()] == [["link", "media_type"]] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blob": "results/other/" + "0" * 32}, "results.mask.blob: expected the name results/"),
        ({"blob": "outcomes/{id}"}, "results.mask.blob: expected the name results/"),
        ({"size_bytes": 1 << 40}, "results.mask.size_bytes: expected at most"),
        ({"media_type": "image/png\r\nx: y"}, "results.mask.media_type: expected printable ASCII"),
        ({"media_type": "image/pn\u0261"}, "results.mask.media_type: expected printable ASCII"),
    ],
)
async def test_reply_with_an_invalid_result_is_refused(
    cutter: RunningGateway, change: dict[str, Any], said: str
) -> None:
    job_id = await cutter.accept(model="cutter")
    mask = stored(cutter, job_id, b"x", "image/png")
    wrong = {**mask, **change}
    wrong["blob"] = wrong["blob"].replace("{id}", job_id)
    answer = await cutter.reply(**outcome(mask=wrong))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert said in answer.json()["detail"]
    assert (await cutter.reply(**outcome(mask=mask))).status_code == 202


def sized(job_id: str, size_bytes: int) -> dict[str, Any]:
    """Return the reference that a worker sends for a stored result of this size."""
    return {
        "media_type": "image/png",
        "blob": result_blob(job_id),
        "size_bytes": size_bytes,
        "sha256": "0" * 64,
    }


def inline(size_bytes: int) -> dict[str, Any]:
    return {"media_type": "image/png", "base64": as_base64(bytes(size_bytes))}


async def test_results_over_a_common_limit_are_refused(cutter: RunningGateway) -> None:
    job_id = await cutter.accept(model="cutter")
    half, half_inline = MAX_RESULT_BYTES // 2, INLINE_LIMIT_BYTES // 2
    text = {"json": "x" * (half_inline - 2)}  # the quotation marks are two bytes
    refused: list[tuple[dict[str, Any], str]] = [
        ({"result": sized(job_id, MAX_RESULT_BYTES + 1)}, "result.size_bytes: expected at most"),
        ({"result": {"json": "x" * INLINE_LIMIT_BYTES}}, "24578 bytes in total"),
        (
            outcome(a=sized(job_id, half), b=sized(job_id, half)),
            f"all results have {2 * half + 7} bytes in total; expected at most {2 * half}",
        ),
        (
            {**outcome(a=inline(half_inline + 1)), "result": text},
            f"in the reply have {INLINE_LIMIT_BYTES + 1} bytes in total; expected at most 24576",
        ),
        (outcome(**dict.fromkeys("abcde", PNG)), "found 5 named results; expected at most 4"),
    ]
    for wrong, said in refused:
        answer = await cutter.reply(**wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input"), said
        assert said in answer.json()["detail"]
    large = sized(job_id, MAX_RESULT_BYTES - INLINE_LIMIT_BYTES)
    named = {"a": inline(half_inline), "b": large, "c": inline(0), "d": inline(0)}
    allowed = {**outcome(**named), "result": text}
    assert (await cutter.reply(**allowed)).status_code == 202


async def test_webhook_contains_the_results(tmp_path: Path) -> None:
    path = write_catalogue(tmp_path, CUTTER)
    async with open_gateway(catalogue_path=path, **HOOKS) as gateway:
        job_id = await gateway.accept(model="cutter", webhook_url=URL)
        await gateway.reply(**outcome(mask=PNG, boxes=BOXES))
        await deliver(gateway, job_id)
        ((_, _, body),) = receiver(gateway).posts
        assert json.loads(body) == await gateway.job(job_id)
        assert json.loads(body)["results"]["boxes"]["json"] == [[1, 2]]


async def test_model_describes_its_results(cutter: RunningGateway) -> None:
    described = await cutter.get("/v1/models/cutter")
    assert described["results"] == {
        "mask": {"description": "A mask.", "media_type": "image/png", "required": True},
        "boxes": {"description": "", "media_type": "application/json", "required": False},
    }
    assert (await cutter.get("/v1/models/noop"))["results"] == {}


async def test_openapi_describes_the_results(cutter: RunningGateway) -> None:
    document = await cutter.get("/openapi.json")
    responses = document["paths"]["/v1/models/cutter/jobs"]["post"]["responses"]
    schema = responses["200"]["content"]["application/json"]["schema"]
    results = schema["allOf"][1]["properties"]["results"]["properties"]
    assert results["mask"]["description"] == "A mask."
    job = await cutter.job(await ended(cutter, mask=PNG, boxes=BOXES))
    validator = Draft202012Validator({**document, **schema})
    assert validator.is_valid(job)
    assert not validator.is_valid({**job, "results": {"mask": "a picture"}})
    noop = document["paths"]["/v1/models/noop/jobs"]["post"]["responses"]["200"]
    assert noop == {"$ref": "#/components/responses/submit_200"}


async def test_inference_has_a_tensor_for_each_result(cutter: RunningGateway) -> None:
    described = await cutter.get("/v2/models/cutter")
    assert described["outputs"] == [
        {"name": name, "datatype": "BYTES", "shape": [-1]} for name in ("result", "mask", "boxes")
    ]
    request = {"inputs": [tensor("eA==", "eA==")]}
    both = [outcome(mask=PNG, boxes=BOXES), outcome(mask=PNG, boxes={**BOXES, "json": 2})]
    found = outputs(await infer(cutter, "cutter", request, both))
    assert list(found) == ["result", "mask", "boxes"]
    assert found["mask"] == {
        "name": "mask",
        "datatype": "BYTES",
        "shape": [2],
        "data": ["iVBORw=="] * 2,
        "parameters": {"content_type": "image/png"},
    }
    assert found["boxes"]["data"] == ["[[1,2]]", "2"]


BOTH, MASK_ONLY = outcome(mask=PNG, boxes=BOXES), outcome(mask=PNG)


@pytest.mark.parametrize(
    ("outcomes", "wanted", "expected"),
    [
        ([BOTH], ["mask"], ["mask"]),
        ([BOTH, MASK_ONLY], None, ["result", "mask"]),
        ([MASK_ONLY], ["result", "boxes"], ["result"]),
        ([MASK_ONLY], ["boxes"], []),
        ([BOTH, MASK_ONLY], ["result", "boxes"], ["result"]),
        ([BOTH, MASK_ONLY], ["boxes"], []),
    ],
)
async def test_inference_returns_requested_results_that_all_jobs_have(
    cutter: RunningGateway,
    outcomes: list[dict[str, Any]],
    wanted: list[str] | None,
    expected: list[str],
) -> None:
    request: dict[str, Any] = {"inputs": [tensor(*["eA=="] * len(outcomes))]}
    if wanted is not None:
        request["outputs"] = [{"name": name} for name in wanted]
    assert list(outputs(await infer(cutter, "cutter", request, outcomes))) == expected


async def test_missing_required_result_fails_the_inference(cutter: RunningGateway) -> None:
    names = [{"name": name} for name in ("mask", "boxes")]
    request = {"inputs": [tensor("eA==")], "outputs": names}
    answer = await infer(cutter, "cutter", request, [outcome(boxes=BOXES)])
    assert answer.status_code == 500
    assert "the model did not return mask" in answer.json()["error"]


async def test_only_requested_blobs_are_read(cutter: RunningGateway) -> None:
    async def run(wanted: str, *, is_lost: bool) -> httpx.Response:
        """Run a job, and request its result `wanted`; lose the blob of its result `mask`."""
        body = {"inputs": [tensor("eA==")], "outputs": [{"name": wanted}]}
        before = len(cutter.queues.sent)
        waiting = asyncio.create_task(cutter.http.post("/v2/models/cutter/infer", json=body))
        await cutter.queues.wait_for(before + 1)
        mask = stored(cutter, cutter.queues.request().job_id, b"mask", "image/png")
        if is_lost:
            del cutter.payloads.blobs[mask["blob"]]
        await cutter.reply(**outcome(mask=mask))
        return await waiting

    assert list(outputs(await run("result", is_lost=True))) == ["result"]
    assert outputs(await run("mask", is_lost=False))["mask"]["data"] == ["bWFzaw=="]
    lost = await run("mask", is_lost=True)
    assert (lost.status_code, "no longer exists" in lost.json()["error"]) == (404, True)


async def test_results_of_a_classifier_replace_its_tensors(tmp_path: Path) -> None:
    entry = CUTTER.replace("[cutter]", '[cutter]\ntask = "image-classification"')
    path = write_catalogue(tmp_path, entry.replace("results.mask", "results.labels"))
    async with open_gateway(catalogue_path=path) as gateway:
        described = (await gateway.get("/v2/models/cutter"))["outputs"]
        assert [each["name"] for each in described] == ["result", "labels", "boxes"]


def in_base64(data: bytes, media_type: str = "text/plain") -> dict[str, Any]:
    return {"media_type": media_type, "base64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (in_base64("grüß".encode()), "grüß"),
        (in_base64(b"a,b\n1,2\n", "text/csv; charset=utf-8"), "a,b\n1,2\n"),
        (in_base64(b""), ""),
        (in_base64(b"\xff"), None),
        (in_base64(b"text", "application/octet-stream"), None),
    ],
)
async def test_small_text_stands_in_the_job(
    gateway: RunningGateway, result: dict[str, Any], shown: str | None
) -> None:
    job_id = await gateway.accept()
    await gateway.reply(result=result)
    assert (await gateway.job(job_id))["result"] == shown
    (listed,) = (await gateway.http.get("/v1/jobs")).json()["jobs"]
    assert listed["result"] == shown
    raw = await gateway.http.get(f"/v1/jobs/{job_id}/result")
    assert raw.content == base64.b64decode(result["base64"])


@pytest.mark.parametrize(("size_bytes", "is_shown"), [(65_536, True), (65_537, False)])
async def test_stored_text_up_to_64_kib_stands_in_the_job(
    gateway: RunningGateway, size_bytes: int, *, is_shown: bool
) -> None:
    job_id = await gateway.accept()
    data = b"x" * size_bytes
    await gateway.reply(result=stored(gateway, job_id, data, "text/plain"))
    assert (await gateway.job(job_id))["result"] == (data.decode() if is_shown else None)
    gateway.payloads.blobs.clear()  # the retention has ended
    assert (await gateway.job(job_id))["result"] is None
