"""Test jobs with named results: a model returns JSON and a picture, and callers read both."""

import asyncio
import base64
import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from loosely import AsyncClient, JobFailed, Result
from tests.e2e import by_hand
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CATALOGUE = """
[pictured]
implementation = "tests.conformance.worker.worker_pictured"
description = "Answers with the number of pixels, a picture and zeros."
media_types = ["application/json"]
results.picture = {media_type = "image/png", description = "Noise."}
results.zeros = {media_type = "application/json", optional = true}
"""


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("pictured")
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE, encoding="utf-8")
    with running(folder / "data", catalogue) as started:
        yield started


def submit(system: System, size: int) -> httpx.Response:
    """Submit a job with the input `size`, the side length of a picture. Return the response."""
    return system.http.post("/v1/models/pictured/jobs", json={"input": {"json": size}})


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def test_a_job_resource_contains_the_small_json_result_and_links_to_the_named_results(
    pictured: System,
) -> None:
    job = submit(pictured, 2).json()
    assert (job["status"], job["result"]) == ("succeeded", 4)
    link = f"/v1/jobs/{job['id']}/result/picture"
    assert job["results"] == {"picture": {"media_type": "image/png", "link": link}}
    found = pictured.http.get(link)
    assert (found.status_code, found.headers["content-type"]) == (200, "image/png")
    assert size_of(found.content) == (2, 2)
    again = pictured.http.get(link, headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304
    omitted = pictured.http.get(f"/v1/jobs/{job['id']}/result/zeros")
    assert (omitted.status_code, omitted.json()["code"]) == (404, "unknown-result")
    assert pictured.http.get(job["links"]["result"]).json() == 4


def test_each_large_named_result_has_a_separate_signed_link_to_blob_storage(
    pictured: System,
) -> None:
    job = submit(pictured, 200).json()
    urls = {}
    for name, each in job["results"].items():
        answer = pictured.http.get(each["link"])
        assert answer.status_code == 303
        urls[name] = answer.headers["location"]
    assert set(urls) == {"picture", "zeros"}
    picture = httpx.get(urls["picture"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert f"{job['id']}-picture.png" in picture.headers["content-disposition"]
    assert size_of(picture.content) == (200, 200)
    part = httpx.get(urls["picture"], headers={"range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"\x89PNG")
    # The link to one result does not permit reading another.
    mixed = httpx.URL(urls["zeros"]).copy_with(path=httpx.URL(urls["picture"]).path)
    assert httpx.get(mixed).status_code == 403


def test_the_asynchronous_client_downloads_large_json_results_and_pictures(
    pictured: System,
) -> None:
    async def run() -> None:
        async with AsyncClient(pictured.url) as client:
            job = await client.run(b"200", "pictured", media_type="application/json")
            assert job.result == 40_000
            assert job.results == {"picture": None, "zeros": [0] * 40_000}
            picture = await client.result(job.id, "picture")
            assert isinstance(picture, Result)
            assert size_of(picture.body) == (200, 200)
            with pytest.raises(JobFailed, match=r"results\.picture: the model did not return"):
                await client.run(b"0", "pictured", media_type="application/json")

    asyncio.run(run())


def test_an_open_inference_response_contains_a_picture_and_json_as_two_tensors(
    pictured: System,
) -> None:
    tensor = {
        "name": "size",
        "datatype": "BYTES",
        "shape": [2],
        "data": [base64.b64encode(text).decode() for text in (b"3", b"4")],
        "parameters": {"content_type": "application/json"},
    }
    answer = pictured.http.post("/v2/models/pictured/infer", json={"inputs": [tensor]})
    outputs = {each["name"]: each for each in answer.json()["outputs"]}
    assert outputs["result"]["data"] == ["9", "16"]
    assert outputs["zeros"]["data"] == [f"[{','.join('0' * count)}]" for count in (9, 16)]
    pictures = [base64.b64decode(each) for each in outputs["picture"]["data"]]
    assert list(map(size_of, pictures)) == [(3, 3), (4, 4)]


def test_a_producer_receives_a_reply_of_schema_version_2_with_named_results(
    pictured: System,
) -> None:
    with by_hand.reply_queue(pictured) as replies:
        reply = by_hand.request_reply(pictured, replies, "pictured", "pictured", input={"json": 2})
    assert (reply["schema"], reply["result"]["json"]) == (2, 4)
    assert size_of(base64.b64decode(reply["results"]["picture"]["base64"])) == (2, 2)
