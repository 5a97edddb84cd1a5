"""Test HTTP semantics: conditional requests, HEAD, OPTIONS, CORS and trace headers."""

import json

import pytest
from uuid_utils import uuid7

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
                "access-control-request-headers": "authorization, prefer, idempotency-key",
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
    """The browser does not show the response to the page, so the gateway may answer the request."""
    answer = await gateway.http.get("/v1/models", headers=CROSS_SITE)
    assert answer.status_code == 200


async def test_response_has_the_trace_id_of_its_request(gateway: RunningGateway) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    caller = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    answer = await gateway.http.get("/v1/models", headers=caller)
    assert trace_id in answer.headers["traceresponse"]
    refused = await gateway.http.get("/nowhere")
    assert json.loads(refused.content)["trace_id"] in refused.headers["traceresponse"]
