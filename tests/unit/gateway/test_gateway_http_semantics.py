"""Test HTTP: conditional requests, HEAD, OPTIONS, CORS, traces, compression, text routes."""

import gzip
import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send
from uuid_utils import uuid7

from gateway.http.app import MODULES
from gateway.http.requests import TextRoute
from gateway.http.responses import MIN_BYTES, CompressionMiddleware
from tests.unit.gateway.conftest import RunningGateway, open_gateway


async def test_current_etag_in_if_none_match_gets_304(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    path = f"/v1/jobs/{job_id}"
    first = await gateway.http.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for named in (tag, f"W/{tag}", f'"a", {tag}', "*"):
        again = await gateway.http.get(path, headers={"if-none-match": named})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["vary"] == "Prefer"
        assert "content-type" not in again.headers
    await gateway.reply()
    changed = await gateway.http.get(path, headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


async def test_if_match_without_the_current_etag_gets_412(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    path = f"/v1/jobs/{job_id}"
    tag = (await gateway.http.get(path)).headers["etag"]
    for method in ("GET", "DELETE"):
        for named in ('"a"', f"W/{tag}", ""):
            answer = await gateway.http.request(method, path, headers={"if-match": named})
            assert (answer.status_code, answer.json()["code"]) == (412, "precondition-failed")
    for named in (tag, f'"a", {tag}', "*"):
        assert (await gateway.http.get(path, headers={"if-match": named})).status_code == 200
    assert (await gateway.job(job_id))["status"] == "queued"
    assert (await gateway.http.delete(path, headers={"if-match": tag})).status_code == 202


@pytest.mark.parametrize("named", ['"a"', "a", "", '"', "W/", "\xff", '"' * 999])
async def test_other_etag_in_if_none_match_gets_200(gateway: RunningGateway, named: str) -> None:
    job_id = await gateway.accept()
    fields = [(b"if-none-match", named.encode("latin-1"))]
    answer = await gateway.http.get(f"/v1/jobs/{job_id}", headers=fields)
    assert answer.status_code == 200


async def test_head_has_the_headers_of_get(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.reply()
    job = f"/v1/jobs/{job_id}"
    pages = (
        "/",
        "/docs",
        "/pages/site.css",
        "/pages/vendor/swagger-ui-5.35.0/swagger-ui-bundle.js",
    )
    for path in (job, f"{job}/result", "/v1/models", "/openapi.json", *pages):
        get, head = await gateway.http.get(path), await gateway.http.head(path)
        assert head.status_code == 200
        for answer in (get, head):
            del answer.headers["traceresponse"]
        assert head.headers == get.headers
    assert (await gateway.http.head("/v1/models/noop/jobs")).status_code == 405
    assert (await gateway.http.head("/nowhere")).status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models/noop/jobs", "OPTIONS, POST"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/jobs/018f0000-0000-7000-8000-000000000000", "DELETE, GET, HEAD, OPTIONS"),
    ],
)
async def test_options_lists_the_methods_of_the_path(
    gateway: RunningGateway, path: str, allowed: str
) -> None:
    answer = await gateway.http.options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == allowed
    assert (await gateway.http.options("/nowhere")).status_code == 404


async def test_configured_origin_gets_cors_headers() -> None:
    page = {"origin": "https://a.example"}
    async with open_gateway(cors_origins=("https://a.example",)) as gateway:
        preflight = await gateway.http.options(
            "/v1/models/noop/jobs",
            headers={
                **page,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, prefer, x-stainless-lang",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        answer = await gateway.http.get("/v1/models", headers=page)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        other = await gateway.http.get("/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


CROSS_SITE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


@pytest.mark.parametrize(
    "headers",
    [
        CROSS_SITE,
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    ],
)
async def test_foreign_page_cannot_change_jobs_without_keys(
    gateway: RunningGateway, headers: dict[str, str]
) -> None:
    plain = {"content-type": "text/plain"}
    for method, path in (
        ("POST", "/v1/models/noop/jobs"),
        ("DELETE", f"/v1/jobs/{uuid7()}"),
        ("POST", f"/v1/jobs/{uuid7()}/reply"),
    ):
        answer = await gateway.http.request(method, path, content=b"x", headers=plain | headers)
        problem = json.loads(answer.content)
        assert (answer.status_code, problem["code"]) == (403, "cross-origin"), path
        assert "access-control-allow-origin" not in answer.headers
    inference = await gateway.http.post("/v2/models/noop/infer", content=b"x", headers=headers)
    assert inference.status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "none"},
        {"origin": "http://gateway.test", "sec-fetch-site": "same-origin"},
        # A proxy in front of the gateway changes the host, but not the headers of the browser.
        {"origin": "https://api.example", "sec-fetch-site": "same-origin"},
        {"origin": "http://gateway.test", "host": "gateway.test"},
    ],
)
async def test_own_pages_and_programs_can_submit(
    gateway: RunningGateway, headers: dict[str, str]
) -> None:
    headers = {"content-type": "application/octet-stream", **headers}
    answer = await gateway.submit(content=b"x", headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize("origins", [("https://evil.example",), ("*",)])
async def test_page_in_cors_origins_can_submit(origins: tuple[str, ...]) -> None:
    headers = {"content-type": "application/octet-stream", **CROSS_SITE}
    async with open_gateway(cors_origins=origins) as gateway:
        answer = await gateway.submit(content=b"x", headers=headers)
        assert answer.status_code == 202


async def test_foreign_page_may_read(gateway: RunningGateway) -> None:
    answer = await gateway.http.get("/v1/models", headers=CROSS_SITE)
    assert answer.status_code == 200


async def test_response_has_the_trace_id_of_its_request(gateway: RunningGateway) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    caller = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    answer = await gateway.http.get("/v1/models", headers=caller)
    assert trace_id in answer.headers["traceresponse"]
    refused = await gateway.http.get("/nowhere")
    assert json.loads(refused.content)["trace_id"] in refused.headers["traceresponse"]


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


def text_app() -> FastAPI:
    app = FastAPI()
    app.router.route_class = TextRoute

    @app.get("/texts/{name}")
    async def texts(request: Request, name: str, token: str = "none") -> Response:
        return Response(f"{name} {token} {request.method}")

    @app.get("/numbers/{number}")
    async def numbers(request: Request, number: int) -> Response:
        return Response(str(number + 1))

    return app


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/texts/a", (200, "a none GET")),
        ("GET", "/texts/a%20b?token=c%2Bd", (200, "a b c+d GET")),
        ("GET", "/texts/a?token=1&token=2&other=3", (200, "a 2 GET")),
        ("GET", "/numbers/4", (200, "5")),
        ("GET", "/numbers/four", (422, None)),
        ("POST", "/texts/a", (405, None)),
    ],
)
async def test_values_equal_those_of_fastapi(
    method: str, path: str, expected: tuple[int, str | None]
) -> None:
    transport = httpx.ASGITransport(text_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.request(method, path)
    status, text = expected
    assert answer.status_code == status
    assert text is None or answer.text == text


def test_frequent_routes_bypass_validation() -> None:
    routes: list[Any] = [route for module in MODULES for route in module.router.routes]
    direct = {route.path for route in routes if isinstance(route, TextRoute) and route.is_direct}
    assert direct >= {"/v1/models/{model}/jobs", "/v1/jobs/{job_id}/reply", "/v1/jobs/{job_id}"}
