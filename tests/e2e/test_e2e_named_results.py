"""Test that callers read the named results of a job: JSON and a picture, small and large."""

import io
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from loosely import Client, JobFailed, Result
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
    with running(tmp_path_factory.mktemp("pictured") / "data", CATALOGUE) as started:
        yield started


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def test_large_ones_have_signed_links_to_blobs(pictured: System) -> None:
    with Client(pictured.url) as client:
        job = client.run(b"200", "pictured", media_type="application/json")
        assert job.result == 40_000
        assert job.results == {"picture": None, "zeros": [0] * 40_000}
        picture = client.result(job.id, "picture")
        assert isinstance(picture, Result)
        assert size_of(picture.body) == (200, 200)
        with pytest.raises(JobFailed, match=r"results\.picture: the model did not return"):
            client.run(b"0", "pictured", media_type="application/json")
    urls = {
        name: pictured.http.get(f"/v1/jobs/{job.id}/result/{name}").headers["location"]
        for name in ("picture", "zeros")
    }
    named = httpx.get(urls["picture"]).headers["content-disposition"]
    assert f"{job.id}-picture.png" in named
    # The link to one result does not permit reading another.
    mixed = httpx.URL(urls["zeros"]).copy_with(path=httpx.URL(urls["picture"]).path)
    assert httpx.get(mixed).status_code == 403
