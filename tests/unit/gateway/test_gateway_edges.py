"""The edges of HTTP: conditional requests, HEAD, OPTIONS, CORS and traces."""

import json

import pytest

from tests.unit.gateway.conftest import World, gateway

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


async def test_what_a_caller_has_is_not_sent_again(world: World) -> None:
    job_id = await world.accept()
    path = f"/v1/jobs/{job_id}"
    first = await world.http.get(path)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for named in (tag, f"W/{tag}", f'"a", {tag}', "*"):
        again = await world.http.get(path, headers={"if-none-match": named})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["vary"] == "Prefer"
        assert "content-type" not in again.headers
    await world.reply()
    changed = await world.http.get(path, headers={"if-none-match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


async def test_what_has_changed_is_left_alone(world: World) -> None:
    job_id = await world.accept()
    path = f"/v1/jobs/{job_id}"
    tag = (await world.http.get(path)).headers["etag"]
    for method in ("GET", "DELETE"):
        for named in ('"a"', f"W/{tag}", ""):
            answer = await world.http.request(method, path, headers={"if-match": named})
            assert (answer.status_code, answer.json()["code"]) == (412, "precondition-failed")
    for named in (tag, f'"a", {tag}', "*"):
        assert (await world.http.get(path, headers={"if-match": named})).status_code == 200
    assert (await world.job(job_id))["status"] == "queued"
    assert (await world.http.delete(path, headers={"if-match": tag})).status_code == 202


@pytest.mark.parametrize("named", ['"a"', "a", "", '"', "W/", "\xff", '"' * 999])
async def test_other_tags_do_not_match(world: World, named: str) -> None:
    job_id = await world.accept()
    fields = [(b"if-none-match", named.encode("latin-1"))]
    answer = await world.http.get(f"/v1/jobs/{job_id}", headers=fields)
    assert answer.status_code == 200


async def test_a_result_has_a_tag(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    path = f"/v1/jobs/{job_id}/result"
    first = await world.http.get(path)
    again = await world.http.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_head_has_the_headers_of_get(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    paths = (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/result", "/v1/models", "/openapi.json", "/")
    for path in paths:
        get, head = await world.http.get(path), await world.http.head(path)
        assert head.status_code == 200
        for answer in (get, head):
            del answer.headers["traceresponse"]
        assert head.headers == get.headers
    assert (await world.http.head("/v1/models/noop/jobs")).status_code == 405
    assert (await world.http.head("/nowhere")).status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models/noop/jobs", "OPTIONS, POST"),
        ("/v1/models", "GET, HEAD, OPTIONS"),
        ("/v1/jobs/018f0000-0000-7000-8000-000000000000", "DELETE, GET, HEAD, OPTIONS"),
    ],
)
async def test_options_say_what_an_address_takes(world: World, path: str, allowed: str) -> None:
    answer = await world.http.options(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["allow"] == allowed
    assert (await world.http.options("/nowhere")).status_code == 404


async def test_pages_of_named_origins_may_use_it() -> None:
    page = {"origin": "https://a.example"}
    async with gateway(cors_origins=("https://a.example",)) as world:
        preflight = await world.http.options(
            "/v1/models/noop/jobs",
            headers={
                **page,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, prefer, idempotency-key",
            },
        )
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        answer = await world.http.get("/v1/models", headers=page)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        other = await world.http.get("/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_no_page_may_use_it_unasked(world: World) -> None:
    answer = await world.http.get("/v1/models", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


async def test_the_trace_is_told(world: World) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    caller = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    answer = await world.http.get("/v1/models", headers=caller)
    assert trace_id in answer.headers["traceresponse"]
    refused = await world.http.get("/nowhere")
    assert json.loads(refused.content)["trace_id"] in refused.headers["traceresponse"]
