"""Test uploads: their URLs, their data, and jobs that use them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import PayloadRef
from gateway import housekeeping
from gateway.keys import OPEN_TENANT
from gateway.storage import uploads
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.named import PNG
from tests.unit.gateway.uploaded import NEVER_MADE, STREAM, sent, slot

WEEK = timedelta(days=7)
"""How long a batch, which may use an upload, can take."""


async def submit(
    gateway: RunningGateway, upload: str, model: str = "noop", **source: Any
) -> httpx.Response:
    return await gateway.submit(model, json={"input": {"upload": upload, **source}})


async def test_new_upload_has_a_signed_put_url(gateway: RunningGateway) -> None:
    found = await slot(gateway)
    assert found["method"] == "PUT"
    assert found["headers"] == {"content-type": STREAM, "x-ms-blob-type": "BlockBlob"}
    assert found["max_bytes"] == 1024**3
    assert STREAM in found["media_types"]
    assert found["expires_at"] == "2026-03-01T18:00:00.000Z"
    url = httpx.URL(found["url"])
    assert url.params["sp"] == "c"
    assert url.path.startswith(f"/uploads/{found['upload']}.")
    assert not gateway.payloads.blobs


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed-request"),
        (b"[]", 400, "malformed-request"),
        (b'{"model": "classifier"}', 415, "unsupported-media-type"),
        (b'{"media_type": "text/plain"}', 400, "malformed-request"),
        (b'{"model": "noop", "media_type": 1}', 400, "malformed-request"),
        (b'{"model": "noop", "media_type": "text/plain", "x": 1}', 400, "malformed-request"),
        (b'{"model": "nop", "media_type": "text/plain"}', 404, "unknown-model"),
        (b'{"model": "noop", "media_type": "audio/wav"}', 415, "unsupported-media-type"),
        (b"x" * 20_000, 413, "payload-too-large"),
    ],
)
async def test_invalid_request_is_refused(
    gateway: RunningGateway, body: bytes, status: int, code: str
) -> None:
    answer = await gateway.http.post("/v1/uploads", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_message_refers_to_the_upload(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x" * 200_000)
    assert (await submit(gateway, upload)).status_code == 202
    blob = uploads.upload_blob_of(upload, OPEN_TENANT)
    expected = PayloadRef(STREAM, blob, 200_000, None, gateway.blobs.etags[blob])
    assert gateway.queues.request().input == expected
    assert not [name for name in gateway.payloads.blobs if name.startswith("inputs/")]


async def test_query_parameter_can_name_the_upload(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x")
    answer = await gateway.submit(params={"upload": upload})
    assert answer.status_code == 202, answer.text
    answer = await gateway.submit(params={"upload": upload}, content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


async def test_submission_overrides_the_media_type(gateway: RunningGateway) -> None:
    upload = await sent(gateway, PNG)
    assert (await submit(gateway, upload, media_type="image/png")).status_code == 202
    assert gateway.queues.request().input.media_type == "image/png"


@pytest.mark.parametrize(
    "upload", [NEVER_MADE, "x", "", "../claims/x", "\ud800", NEVER_MADE.upper()]
)
async def test_missing_upload_is_refused(gateway: RunningGateway, upload: str) -> None:
    body = '{"input": {"upload": "' + upload.encode("unicode_escape").decode() + '"}}'
    answer = await gateway.http.post(
        "/v1/models/noop/jobs", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


async def test_content_encoding_is_refused(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x")
    gateway.blobs.content_encoding = "gzip"
    answer = await submit(gateway, upload)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


async def test_upload_without_data_is_refused(gateway: RunningGateway) -> None:
    answer = await submit(gateway, (await slot(gateway))["upload"])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


@pytest.mark.parametrize(
    ("data", "media_type", "model", "status"),
    [
        (b"", STREAM, "noop", 422),
        (b"no picture", "image/png", "noop", 415),
        (b"{", "application/json", "noop", 415),
        (b"\0" * 10_485_761, "image/png", "classifier", 413),
        (PNG.replace((64).to_bytes(4), (60_000).to_bytes(4)), "image/png", "classifier", 422),
    ],
)
async def test_upload_that_the_model_does_not_accept_is_refused(
    gateway: RunningGateway, data: bytes, media_type: str, model: str, status: int
) -> None:
    upload = await sent(gateway, data, media_type, model)
    answer = await submit(gateway, upload, model)
    assert answer.status_code == status, answer.text
    assert not gateway.durable.runs


async def test_only_the_beginning_is_read(gateway: RunningGateway) -> None:
    # Because of APP0 segments of 60 kB each, the frame header is after the bytes that are read.
    picture = b"\xff\xd8" + (b"\xff\xe0" + (60_000).to_bytes(2) + b"\1" * 59_998) * 3
    upload = await sent(gateway, picture, "image/jpeg", "classifier")
    assert (await submit(gateway, upload, "classifier")).status_code == 202


async def test_expired_upload_is_refused(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x")
    await gateway.durable.advance(uploads.UPLOAD_LIFETIME.total_seconds())
    answer = await submit(gateway, upload)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


async def test_repeat_gets_the_job_of_an_expired_upload(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x")
    url = f"/v1/models/noop/jobs?upload={upload}"
    headers = {"prefer": "respond-async", "idempotency-key": '"k"'}
    first = await gateway.http.post(url, headers=headers)
    assert first.status_code == 202, first.text
    await gateway.reply()
    await gateway.durable.advance(uploads.UPLOAD_LIFETIME.total_seconds() + 3600)
    del gateway.payloads.blobs[uploads.upload_blob_of(upload, OPEN_TENANT)]
    again = await gateway.http.post(url, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert again.headers["idempotency-replayed"] == "true"
    other = await gateway.http.post(f"{url}&deadline_seconds=7", headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")
    fresh = await gateway.http.post(url, headers={**headers, "idempotency-key": '"other"'})
    assert (fresh.status_code, fresh.json()["code"]) == (422, "invalid-input")
    assert len(gateway.durable.runs) == 1


async def test_housekeeping_deletes_it_a_week_after_expiry(gateway: RunningGateway) -> None:
    upload = await sent(gateway, b"x")
    await gateway.durable.advance((uploads.UPLOAD_LIFETIME + WEEK).total_seconds() - 1)
    await housekeeping.run(gateway.durable, gateway.services)
    assert uploads.upload_blob_of(upload, OPEN_TENANT) in gateway.payloads.blobs
    younger = await sent(gateway, b"y")
    await gateway.durable.advance(1)
    await housekeeping.run(gateway.durable, gateway.services)
    left = [name for name in gateway.payloads.blobs if name.startswith("uploads/")]
    assert left == [uploads.upload_blob_of(younger, OPEN_TENANT)]


async def test_undeletable_upload_does_not_stop_housekeeping(gateway: RunningGateway) -> None:
    stuck, other = await sent(gateway, b"x"), await sent(gateway, b"y")
    job_id = await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{job_id}")
    gateway.blobs.undeletable = {uploads.upload_blob_of(stuck, OPEN_TENANT)}
    gateway.clock.now += WEEK + timedelta(hours=75)
    counts = await housekeeping.run(gateway.durable, gateway.services)
    assert uploads.upload_blob_of(other, OPEN_TENANT) not in gateway.payloads.blobs
    assert counts["histories"] == 1
    assert counts["outcomes/"] == 1
    assert "uploads/" not in counts


async def test_failing_housekeeping_becomes_a_verdict(gateway: RunningGateway) -> None:
    gateway.blobs.undeletable = {uploads.upload_blob_of(await sent(gateway, b"x"), OPEN_TENANT)}
    gateway.clock.now += WEEK + timedelta(hours=8)
    codes = []
    for _ in range(8):
        await housekeeping.run(gateway.durable, gateway.services)
        overview = (await gateway.http.get("/v1/ops/overview")).json()
        codes.append([each["code"] for each in overview["verdicts"]])
        gateway.clock.now += timedelta(minutes=10)
    assert not any("housekeeping-fails" in each for each in codes[:7])
    (verdict,) = [v for v in overview["verdicts"] if v["code"] == "housekeeping-fails"]
    assert verdict["text"].startswith("The housekeeping has not ended well for 70 min: uploads/: ")
    gateway.blobs.undeletable = set()
    await housekeeping.run(gateway.durable, gateway.services)
    overview = (await gateway.http.get("/v1/ops/overview")).json()
    assert "housekeeping-fails" not in [each["code"] for each in overview["verdicts"]]


def test_tenants_have_different_blobs() -> None:
    assert uploads.upload_blob_of(NEVER_MADE, "a") != uploads.upload_blob_of(NEVER_MADE, "b")


@given(st.integers(1_600_000_000_000_000, 7_000_000_000_000_000))
def test_id_contains_the_expiry(microseconds: int) -> None:
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    expires_at = uploads.upload_expiry(uploads.new_upload(now))
    assert expires_at is not None
    assert timedelta(0) <= now + uploads.UPLOAD_LIFETIME - expires_at < timedelta(milliseconds=2)


@given(st.text() | st.from_regex("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}"))
def test_any_id_has_an_expiry_or_none(text: str) -> None:
    uploads.upload_expiry(text)
