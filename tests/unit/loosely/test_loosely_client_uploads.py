"""Test how `Client` and `AsyncClient` send large and named inputs, and get large results."""

import base64
import json
from pathlib import Path

import pytest

from loosely import PayloadTooLarge, Result, Retry, UnexpectedAnswer, Upload
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

JPEG = b"\xff\xd8\xff\xe0 picture"
KEY = "lsy_secret"
QUEUED = job_document("queued")


def stored(gateway: ScriptedGateway, reference: str = "ref-1") -> list[ScriptedResponse]:
    """Return the responses of the gateway and of blob storage to an upload."""
    slot = {"upload": reference, "url": f"{gateway.url}/blobs/slot?sig=secret"}
    return [json_response(201, slot), ScriptedResponse(201, b"")]


def test_storage_does_not_get_api_key(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        ScriptedResponse(303, b"", {"location": "/blobs/x?sig=secret"}),
        ScriptedResponse(200, b"large", {"content-type": "image/png"}),
    ]
    assert connect(gateway.url, api_key=KEY).result(JOB_ID) == Result(b"large", "image/png")
    assert gateway.requests[1].target == "/blobs/x?sig=secret"
    assert [request.headers.get("authorization") for request in gateway.requests] == [
        f"Bearer {KEY}",
        None,
    ]


def test_input_is_stored_at_returned_url(
    gateway: ScriptedGateway, connect: Connect, tmp_path: Path
) -> None:
    picture = tmp_path / "large.jpg"
    picture.write_bytes(JPEG * 200_000)
    slot = {
        "upload": "ref-1",
        "url": f"{gateway.url}/blobs/slot?sig=secret",
        "headers": {"x-ms-blob-type": "BlockBlob"},
        "expires_at": "2026-01-02T03:04:05Z",
    }
    gateway.responses = [json_response(201, slot), HANG_UP, ScriptedResponse(201, b"")]
    upload = connect(gateway.url, api_key=KEY).upload(picture, "classifier")

    request, _, put = gateway.requests
    assert json.loads(request.body) == {"model": "classifier", "media_type": "image/jpeg"}
    assert (put.method, put.target) == ("PUT", "/blobs/slot?sig=secret")
    assert put.headers["x-ms-blob-type"] == "BlockBlob"
    assert put.headers["content-type"] == "image/jpeg"
    assert "authorization" not in put.headers
    assert put.body == picture.read_bytes()
    assert upload.reference == "ref-1"
    assert "secret" not in repr(upload)
    assert "url" not in upload.document


def test_lost_response_of_storage_is_success(gateway: ScriptedGateway, connect: Connect) -> None:
    refusal = ScriptedResponse(403, b"", {"x-ms-error-code": "UnauthorizedBlobOverwrite"})
    gateway.responses = [stored(gateway)[0], HANG_UP, refusal]
    assert connect(gateway.url).upload(JPEG, "classifier").reference == "ref-1"


def test_input_over_model_limit_is_uploaded(gateway: ScriptedGateway, connect: Connect) -> None:
    model = {"name": "classifier", "limits": {"input_bytes": 1_000_000}}
    gateway.responses = [json_response(200, model), *stored(gateway), json_response(200, SUCCEEDED)]
    connect(gateway.url).run(
        JPEG * 100_000,
        "classifier",
        deadline_seconds=9,
        webhook_url="https://example.org/hook",
        priority="low",
    )
    assert [request.target for request in gateway.requests] == [
        "/v1/models/classifier",
        "/v1/uploads",
        "/blobs/slot?sig=secret",
        "/v1/models/classifier/jobs",
    ]
    assert json.loads(gateway.requests[3].body) == {
        "input": {"upload": "ref-1", "media_type": "image/jpeg"},
        "deadline_seconds": 9,
        "webhook": {"url": "https://example.org/hook"},
        "priority": "low",
    }


@pytest.mark.parametrize(
    ("refusal", "input_bytes"),
    [
        (problem_response(413, "payload-too-large", "up to 10 bytes"), 100),
        # Azure's host has not read the body.
        (ScriptedResponse(500, b""), 500_000),
    ],
)
def test_input_refused_as_too_large_is_uploaded(
    gateway: ScriptedGateway, connect: Connect, refusal: ScriptedResponse, input_bytes: int
) -> None:
    gateway.responses = [refusal, *stored(gateway), json_response(202, QUEUED)]
    data = JPEG.ljust(input_bytes)
    assert connect(gateway.url).submit(data, "classifier").status == "queued"
    assert gateway.requests[2].body == data

    gateway.responses = [refusal, problem_response(413, "payload-too-large", "up to 10 bytes")]
    with pytest.raises(PayloadTooLarge):
        connect(gateway.url).submit(data, "classifier")


def test_empty_500_to_small_body_is_unexpected(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [ScriptedResponse(500, b"")] * 9
    with pytest.raises(UnexpectedAnswer):
        connect(gateway.url, retry=Retry(total_seconds=0)).submit(JPEG, "classifier")


def test_input_over_upload_limit_is_not_sent(gateway: ScriptedGateway, connect: Connect) -> None:
    slot = {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot", "max_bytes": 10}
    gateway.responses = [json_response(201, slot)]
    with pytest.raises(PayloadTooLarge, match="up to 10 bytes"):
        connect(gateway.url).upload(JPEG, "classifier")
    assert len(gateway.requests) == 1


def test_refused_upload_hides_url(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [stored(gateway)[0], ScriptedResponse(403, b"<Error/>")]
    with pytest.raises(UnexpectedAnswer, match="upload was expected") as caught:
        connect(gateway.url).upload(JPEG, "classifier")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize("size_bytes", [1_000_000, 1_000_001, 3_000_000])
def test_body_over_one_megabyte_is_chunked(
    gateway: ScriptedGateway, connect: Connect, tmp_path: Path, *, is_file: bool, size_bytes: int
) -> None:
    data = JPEG.ljust(size_bytes)
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(data)
    answers = [HANG_UP, json_response(202, QUEUED)]
    if size_bytes > 1024**2:  # the client asks for the limit of a larger input
        answers.insert(0, json_response(200, {"name": "classifier", "limits": {}}))
    gateway.responses = answers
    connect(gateway.url).submit(picture if is_file else data, "classifier")
    for request in gateway.requests[-2:]:
        lengths = {"content-length": str(size_bytes), "transfer-encoding": "chunked"}
        sent = {name: request.headers.get(name) for name in lengths if name in request.headers}
        name = "content-length" if size_bytes == 1_000_000 else "transfer-encoding"
        assert sent == {name: lengths[name]}
        assert request.headers["content-type"] == "image/jpeg"
        assert request.body == data


PNG = b"\x89PNG\r\n\x1a\n mask"
MIB = 1024 * 1024


def as_base64(data: bytes, media_type: str) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode(), "media_type": media_type}


def test_named_inputs_are_in_json_body(
    gateway: ScriptedGateway, connect: Connect, tmp_path: Path
) -> None:
    mask, table = tmp_path / "mask.png", tmp_path / "table.json"
    mask.write_bytes(PNG)
    table.write_bytes(b"[1]")
    inputs = {"mask": mask, "table": table, "old": Upload("ref-1", "image/png", 3)}
    gateway.responses = [json_response(200, SUCCEEDED)] * 2
    for call in (connect(gateway.url).submit, connect(gateway.url).run):
        call(JPEG, "compared", inputs=inputs, parameters={"top": 3}, label="a")
    for request in gateway.requests:
        assert request.target == "/v1/models/compared/jobs"
        assert json.loads(request.body) == {
            "input": as_base64(JPEG, "image/jpeg"),
            "inputs": {
                "mask": as_base64(PNG, "image/png"),
                "table": as_base64(b"[1]", "application/json"),
                "old": {"upload": "ref-1", "media_type": "image/png"},
            },
            "parameters": {"top": 3},
            "label": "a",
        }


def test_only_large_inputs_are_uploaded(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [*stored(gateway), json_response(200, SUCCEEDED)]
    connect(gateway.url).run(JPEG, "compared", inputs={"mask": PNG + bytes(MIB)})
    asked, _, submitted = gateway.requests
    expected = {"model": "compared", "media_type": "image/png", "input": "mask"}
    assert json.loads(asked.body) == expected
    assert json.loads(submitted.body) == {
        "input": as_base64(JPEG, "image/jpeg"),
        "inputs": {"mask": {"upload": "ref-1", "media_type": "image/png"}},
    }


def test_refused_body_uploads_all_inputs(gateway: ScriptedGateway, connect: Connect) -> None:
    refusal = problem_response(413, "payload-too-large", "up to 10 bytes")
    slots = [*stored(gateway), *stored(gateway, "ref-2")]
    gateway.responses = [refusal, *slots, json_response(200, SUCCEEDED)]
    connect(gateway.url).run(JPEG, "compared", inputs={"mask": PNG})
    assert json.loads(gateway.requests[-1].body) == {
        "input": {"upload": "ref-1", "media_type": "image/jpeg"},
        "inputs": {"mask": {"upload": "ref-2", "media_type": "image/png"}},
    }
    keys = [request.headers.get("idempotency-key") for request in gateway.requests]
    assert keys[0] == keys[-1]
    gateway.responses = [refusal, *slots, refusal]
    with pytest.raises(PayloadTooLarge):
        connect(gateway.url).run(JPEG, "compared", inputs={"mask": PNG})


def test_upload_names_its_input(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = stored(gateway)
    connect(gateway.url).upload(PNG, "compared", input_name="mask")
    assert json.loads(gateway.requests[0].body)["input"] == "mask"
