"""Whatever is sent: a problem with its own code, nothing stuck, and the next job is served."""

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
    """A PNG of a few hundred bytes that says it is `side` pixels square."""

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
def nothing_is_left_behind(system: System, chelsea: bytes) -> Iterator[None]:
    """After each refusal the queues are empty and the worker serves."""
    yield
    answer = system.submit("classifier", chelsea, "image/jpeg")
    assert answer.json()["status"] == "succeeded"
    models = system.http.get("/v1/models").json()["models"]
    assert {model["name"] for model in models} == {"classifier", "voice-activity", "noop"}
    system.wait_until_empty()


def test_text_that_is_called_a_picture(system: System) -> None:
    answer = system.submit("classifier", b"just words", "image/jpeg")
    assert problem(answer) == (415, "unsupported-media-type")
    assert "image/png" in answer.text


def test_a_media_type_that_the_model_does_not_take(system: System) -> None:
    assert problem(system.submit("classifier", b"words", "text/plain")) == (
        415,
        "unsupported-media-type",
    )


def test_an_empty_body(system: System) -> None:
    assert problem(system.submit("classifier", b"", "image/jpeg")) == (422, "invalid-input")


def test_a_truncated_picture(system: System, chelsea: bytes) -> None:
    answer = system.submit("classifier", chelsea[: len(chelsea) // 2], "image/jpeg")
    assert problem(answer) == (422, "invalid-input")
    assert answer.json()["job"]["status"] == "failed"


def test_a_picture_with_too_many_pixels(system: System) -> None:
    answer = system.submit("classifier", huge_png(), "image/png")
    assert problem(answer) == (422, "invalid-input")
    assert "pixels" in answer.json()["detail"]


def test_an_unknown_model_names_the_nearest(system: System, chelsea: bytes) -> None:
    answer = system.submit("clasifier", chelsea, "image/jpeg")
    assert problem(answer) == (404, "unknown-model")
    assert "classifier" in answer.json()["detail"]


def test_twenty_megabytes(system: System) -> None:
    answer = system.submit("classifier", b"\xff\xd8\xff" + b"\0" * 20_000_000, "image/jpeg")
    assert problem(answer) == (413, "payload-too-large")


def test_an_unknown_job(system: System) -> None:
    assert problem(system.http.get("/v1/jobs/018f0000-0000-7000-8000-000000000000")) == (
        404,
        "unknown-job",
    )


def test_a_wrong_reply_token(system: System) -> None:
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
def test_a_body_without_its_length_never_comes(system: System, path: str) -> None:
    answer = system.http.post(path, content=iter([b"{}"]), headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "Content-Length" in answer.text
