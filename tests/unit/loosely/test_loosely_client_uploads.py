"""What both clients do with inputs and results that go by the store."""

import json
from pathlib import Path

import pytest

from loosely import PayloadTooLarge, Result, UnexpectedAnswer
from tests.unit.loosely.both_clients import Make
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    Answer,
    ScriptedGateway,
    answer,
    job_document,
    problem,
)

JPEG = b"\xff\xd8\xff\xe0 picture"
KEY = "lsy_secret"
QUEUED = job_document("queued")


def test_the_key_is_not_for_the_store(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        Answer(303, b"", {"location": "/blobs/x?sig=secret"}),
        Answer(200, b"large", {"content-type": "image/png"}),
    ]
    assert make(gateway.url, api_key=KEY).result(JOB_ID) == Result(b"large", "image/png")
    assert [asked.headers.get("authorization") for asked in gateway.asked] == [
        f"Bearer {KEY}",
        None,
    ]


def test_an_upload_fills_its_slot(gateway: ScriptedGateway, make: Make, tmp_path: Path) -> None:
    picture = tmp_path / "large.jpg"
    picture.write_bytes(JPEG * 200_000)
    slot = {
        "upload": "ref-1",
        "url": f"{gateway.url}/blobs/slot?sig=secret",
        "headers": {"x-ms-blob-type": "BlockBlob"},
        "expires_at": "2026-01-02T03:04:05Z",
    }
    gateway.answers = [answer(201, slot), HANG_UP, Answer(201, b"")]
    upload = make(gateway.url, api_key=KEY).upload(picture, "classifier")

    asked, _, put = gateway.asked
    assert json.loads(asked.body) == {
        "model": "classifier",
        "media_type": "image/jpeg",
    }
    assert (put.method, put.target) == ("PUT", "/blobs/slot?sig=secret")
    assert put.headers["x-ms-blob-type"] == "BlockBlob"
    assert put.headers["content-type"] == "image/jpeg"
    assert "authorization" not in put.headers
    assert put.body == picture.read_bytes()
    assert upload.reference == "ref-1"
    assert "secret" not in repr(upload)
    assert "url" not in upload.document


def test_what_is_too_large_for_a_request_goes_by_upload(
    gateway: ScriptedGateway, make: Make
) -> None:
    large = JPEG * 100_000
    slot = {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot"}
    gateway.answers = [
        answer(200, {"name": "classifier", "limits": {"input_bytes": 1_000_000}}),
        answer(201, slot),
        Answer(201, b""),
        answer(200, SUCCEEDED),
    ]
    make(gateway.url).run(
        large,
        "classifier",
        deadline_seconds=9,
        webhook_url="https://example.org/hook",
        priority="low",
    )
    targets = [asked.target for asked in gateway.asked]
    assert targets == [
        "/v1/models/classifier",
        "/v1/uploads",
        "/blobs/slot",
        "/v1/models/classifier/jobs",
    ]
    assert json.loads(gateway.asked[3].body) == {
        "input": {"upload": "ref-1", "media_type": "image/jpeg"},
        "deadline_seconds": 9,
        "webhook": {"url": "https://example.org/hook"},
        "priority": "low",
    }


def test_a_refusal_for_size_leads_to_an_upload(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        problem(413, "payload-too-large", "up to 10 bytes"),
        answer(201, {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot"}),
        Answer(201, b""),
        answer(202, QUEUED),
    ]
    assert make(gateway.url).submit(JPEG, "classifier").status == "queued"

    gateway.answers = [problem(413, "payload-too-large", "up to 10 bytes")]
    with pytest.raises(PayloadTooLarge):
        make(gateway.url).submit(JPEG, "classifier")


def test_more_than_a_slot_takes_is_not_sent(gateway: ScriptedGateway, make: Make) -> None:
    slot = {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot", "max_bytes": 10}
    gateway.answers = [answer(201, slot)]
    with pytest.raises(PayloadTooLarge, match="up to 10 bytes"):
        make(gateway.url).upload(JPEG, "classifier")
    assert len(gateway.asked) == 1


def test_a_store_that_refuses_is_no_gateway(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        answer(201, {"upload": "ref-1", "url": f"{gateway.url}/blobs/slot?sig=secret"}),
        Answer(403, b"<Error/>"),
    ]
    with pytest.raises(UnexpectedAnswer, match="upload was expected") as caught:
        make(gateway.url).upload(JPEG, "classifier")
    assert "secret" not in str(caught.value)
