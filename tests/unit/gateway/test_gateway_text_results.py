"""Test that a job contains its text result."""

import base64
from typing import Any

import pytest

from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.named import stored


def inline(data: bytes, media_type: str = "text/plain") -> dict[str, Any]:
    return {"media_type": media_type, "base64": base64.b64encode(data).decode()}


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        (inline("grüß".encode()), "grüß"),
        (inline(b"a,b\n1,2\n", "text/csv; charset=utf-8"), "a,b\n1,2\n"),
        (inline(b""), ""),
        (inline(b"\xff"), None),
        (inline(b"text", "application/octet-stream"), None),
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
