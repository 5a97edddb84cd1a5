"""Uploads, which are sent to the blob storage in memory."""

from typing import Any

import httpx

from tests.unit.gateway.conftest import RunningGateway

STREAM = "application/octet-stream"
NEVER_MADE = "019cb2d2-0000-7000-8000-000000000000"


async def slot(gateway: RunningGateway, **asked: Any) -> dict[str, Any]:
    answer = await gateway.http.post(
        "/v1/uploads", json={"model": "noop", "media_type": STREAM, **asked}
    )
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def sent(
    gateway: RunningGateway,
    data: bytes,
    media_type: str = STREAM,
    model: str = "noop",
    **asked: Any,
) -> str:
    """Upload data as an input for a model, and return the id of the upload."""
    found = await slot(gateway, media_type=media_type, model=model, **asked)
    path = httpx.URL(found["url"]).path.removeprefix("/")
    gateway.blobs.put(path, data, found["headers"]["content-type"])
    return str(found["upload"])
