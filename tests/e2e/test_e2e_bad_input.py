"""Test that an invalid request gets an error document with a code, and that jobs still succeed."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "retryable"} <= set(document)
    assert document["status"] == answer.status_code
    return answer.status_code, document["code"]


def huge_png(side: int = 30_000) -> bytes:
    """Return a PNG file of a few hundred bytes whose header claims `side` by `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def chelsea() -> bytes:
    return (Path(__file__).parents[2] / "examples" / "chelsea.jpg").read_bytes()


@pytest.fixture(autouse=True)
def the_system_still_serves(system: System, chelsea: bytes) -> Iterator[None]:
    """Check after each test that a new job succeeds and that all queues are empty."""
    yield
    answer = system.submit("classifier", chelsea, "image/jpeg")
    assert answer.json()["status"] == "succeeded"
    models = system.http.get("/v1/models").json()["models"]
    assert {model["name"] for model in models} == {"classifier", "voice-activity", "noop"}
    system.wait_until_empty()


def test_text_named_as_picture_gets_415(system: System) -> None:
    answer = system.submit("classifier", b"just words", "image/jpeg")
    assert problem(answer) == (415, "unsupported-media-type")
    assert "image/png" in answer.text


def test_unaccepted_media_type_gets_415(system: System) -> None:
    assert problem(system.submit("classifier", b"words", "text/plain")) == (
        415,
        "unsupported-media-type",
    )


def test_empty_body_gets_422(system: System) -> None:
    assert problem(system.submit("classifier", b"", "image/jpeg")) == (422, "invalid-input")


def test_truncated_picture_gets_422(system: System, chelsea: bytes) -> None:
    answer = system.submit("classifier", chelsea[: len(chelsea) // 2], "image/jpeg")
    assert problem(answer) == (422, "invalid-input")
    assert answer.json()["job"]["status"] == "failed"


def test_picture_with_too_many_pixels_gets_422(system: System) -> None:
    answer = system.submit("classifier", huge_png(), "image/png")
    assert problem(answer) == (422, "invalid-input")
    assert "pixels" in answer.json()["detail"]


def test_unknown_model_names_the_most_similar(system: System, chelsea: bytes) -> None:
    answer = system.submit("clasifier", chelsea, "image/jpeg")
    assert problem(answer) == (404, "unknown-model")
    assert "classifier" in answer.json()["detail"]


def test_body_of_5_megabytes_gets_413(system: System) -> None:
    answer = system.submit("classifier", b"\xff\xd8\xff" + b"\0" * 5_000_000, "image/jpeg")
    assert problem(answer) == (413, "payload-too-large")


def test_unknown_job_gets_404(system: System) -> None:
    assert problem(system.http.get("/v1/jobs/018f0000-0000-7000-8000-000000000000")) == (
        404,
        "unknown-job",
    )


def test_reply_with_wrong_token_gets_401(system: System) -> None:
    job = system.submit("noop", b"x").json()
    reply = {"schema": 1, "job_id": job["id"], "result": {"json": "forged"}}
    answer = system.http.post(
        f"/v1/jobs/{job['id']}/reply?expires=4102444800&token=forged", json=reply
    )
    assert problem(answer) == (401, "unauthenticated")
    assert system.job(job["id"])["result"] == job["result"]


@pytest.mark.parametrize(
    "path", ["/v1/models/noop/jobs", "/v1/uploads", "/v2/models/classifier/infer"]
)
def test_body_without_content_length_gets_400(system: System, path: str) -> None:
    answer = system.http.post(path, content=iter([b"{}"]), headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "Content-Length" in answer.text
