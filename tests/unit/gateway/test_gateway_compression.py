"""Test which responses are compressed, and their headers."""

import gzip
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.responses import MIN_BYTES, CompressionMiddleware
from tests.unit.gateway.conftest import RunningGateway

GZIP = {"accept-encoding": "gzip"}


async def raw(gateway: RunningGateway, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """Return a response and its body without decoding the body."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with gateway.http.stream("GET", path, headers=given) as answer:
        return answer, b"".join([part async for part in answer.aiter_raw()])


async def long_result(gateway: RunningGateway) -> str:
    """Return the path of a result with 20 KB of JSON."""
    job_id = await gateway.accept()
    assert (await gateway.reply(result={"json": "x" * 20_000})).status_code == 202
    return f"/v1/jobs/{job_id}/result"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/problems"])
async def test_large_response_is_compressed_if_accepted(gateway: RunningGateway, path: str) -> None:
    plain, body = await raw(gateway, path, accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    small, zipped = await raw(gateway, path, accept_encoding="gzip")
    assert small.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in plain.headers["vary"] == small.headers["vary"]
    assert len(zipped) < len(body) / 3
    assert gzip.decompress(zipped) == body


async def test_compressed_response_has_an_etag_of_its_own(gateway: RunningGateway) -> None:
    path = await long_result(gateway)
    plain, _ = await raw(gateway, path, accept_encoding="identity")
    small, _ = await raw(gateway, path, accept_encoding="gzip")
    tag = small.headers["etag"]
    assert tag == plain.headers["etag"][:-1] + '-gzip"'
    for given, accepted in ((tag, "gzip"), (plain.headers["etag"], "identity")):
        again, body = await raw(gateway, path, accept_encoding=accepted, if_none_match=given)
        assert (again.status_code, body, again.headers["etag"]) == (304, b"", given)
    other, _ = await raw(gateway, path, if_none_match='"other-gzip"')
    assert other.status_code == 200


async def test_compressed_etag_is_valid_in_if_match(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    assert (await gateway.reply(result={"json": "x" * 20_000})).status_code == 202
    path = f"/v1/jobs/{job_id}"
    job, _ = await raw(gateway, path, accept_encoding="gzip")
    assert job.headers["content-encoding"] == "gzip"
    answer = await gateway.http.delete(path, headers={"if-match": job.headers["etag"]})
    assert answer.status_code == 200
    changed = {"if-match": '"changed-gzip"'}
    assert (await gateway.http.delete(path, headers=changed)).status_code == 412


async def test_head_has_the_headers_of_the_compressed_get(gateway: RunningGateway) -> None:
    path = await long_result(gateway)
    get, _ = await raw(gateway, path, accept_encoding="gzip")
    head = await gateway.http.head(path, headers=GZIP)
    for answer in (get, head):
        del answer.headers["traceresponse"]
    assert head.headers == get.headers


async def test_small_responses_and_pictures_stay_as_they_are(gateway: RunningGateway) -> None:
    slot = await gateway.http.post(
        "/v1/uploads", json={"model": "noop", "media_type": "image/png"}, headers=GZIP
    )
    assert slot.status_code == 201
    assert len(slot.content) < MIN_BYTES / 2, "a response with a signed link must stay small"
    assert "content-encoding" not in slot.headers
    job_id = await gateway.accept()
    await gateway.reply(result={"media_type": "image/png", "base64": "AAAA" * 4000})
    picture, body = await raw(gateway, f"/v1/jobs/{job_id}/result", **GZIP)
    assert (picture.headers.get("content-encoding"), len(body)) == (None, 12_000)


@pytest.mark.parametrize("parts", [2, 1])
async def test_response_in_parts_is_passed_on_part_by_part(parts: int) -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(parts):
            more = number < parts - 1
            await send({"type": "http.response.body", "body": b"x" * MIN_BYTES, "more_body": more})
            assert len(sent) == number + 2, "a part was held back"

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "headers": [(b"accept-encoding", b"gzip")]}
    await CompressionMiddleware(app)(scope, receive, send)
    encodings = [value for name, value in sent[0]["headers"] if name == b"content-encoding"]
    assert encodings == ([b"gzip"] if parts == 1 else [])
