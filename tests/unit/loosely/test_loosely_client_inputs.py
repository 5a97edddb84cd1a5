"""Test how `Client` and `AsyncClient` send jobs with named inputs."""

import base64
import json
from pathlib import Path

import pytest

from loosely import PayloadTooLarge, Upload
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.scripted_gateway import (
    SUCCEEDED,
    ScriptedGateway,
    ScriptedResponse,
    json_response,
    problem_response,
)

JPEG = b"\xff\xd8\xff\xe0 picture"
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
    gateway.responses = [
        json_response(201, {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot"}),
        ScriptedResponse(201, b""),
        json_response(200, SUCCEEDED),
    ]
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
    slots = [
        response
        for number in (1, 2)
        for response in (
            json_response(201, {"upload": f"ref-{number}", "url": f"{gateway.url}/blobs/slot"}),
            ScriptedResponse(201, b""),
        )
    ]
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
    gateway.responses = [
        json_response(201, {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot"}),
        ScriptedResponse(201, b""),
    ]
    connect(gateway.url).upload(PNG, "compared", input_name="mask")
    assert json.loads(gateway.requests[0].body)["input"] == "mask"
