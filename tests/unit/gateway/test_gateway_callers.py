"""Test API keys, scopes, rate limits and tenants, and what operators read and change."""

import base64
import json
from typing import Any

import pytest

from contract.messages import encode_request
from tests.unit.gateway.api_keys import KEYS, ask, bearer, job_of, submit_as
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway
from tests.unit.gateway.dead_letters import LETTERS, give_up
from tests.unit.gateway.open_inference_caller import infer, tensor

NOBODY = "018f0000-0000-7000-8000-000000000000"


def principal_of(tenant: str, *roles: str) -> dict[str, str]:
    claims = [("tid", tenant), ("oid", "somebody"), *(("roles", role) for role in roles)]
    value = {"claims": [{"typ": name, "val": text} for name, text in claims]}
    return {"x-ms-client-principal": base64.b64encode(json.dumps(value).encode()).decode()}


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, 'Bearer realm="loosely"'),
        ({"authorization": "Basic abc"}, 'Bearer realm="loosely"'),
        ({"authorization": "Bearer abc"}, 'Bearer realm="loosely", error="invalid_token"'),
        ({"x-api-key": "abc"}, 'Bearer realm="loosely", error="invalid_token"'),
        (
            {"authorization": "Bearer " + "x" * 9000},
            'Bearer realm="loosely", error="invalid_token"',
        ),
        (principal_of("acme", "jobs:read"), 'Bearer realm="loosely"'),
    ],
)
async def test_request_without_a_valid_key_is_refused(
    closed: RunningGateway, headers: dict[str, str], challenge: str
) -> None:
    for path in ("/v1/jobs", f"/v1/jobs/{NOBODY}", "/v1/models", "/nowhere", "/v1/jobs/x/y"):
        answer = await closed.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"] == challenge
    assert closed.durable.status_count == 0


async def test_key_is_accepted_in_both_headers(closed: RunningGateway) -> None:
    key = KEYS["a"][0]
    for headers in (
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer  {key}"},
        {"x-api-key": key},
        {"x-api-key": key, "authorization": "Basic abc"},
    ):
        assert (await closed.http.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/play", "/ops", "/docs", "/docs/problems", "/openapi.json"),
        *("/pages/site.css", "/pages/key.js"),
        "/pages/vendor/swagger-ui-5.35.0/swagger-ui-bundle.js",
        *("/v1/health/live", "/v1/health/ready"),
    ],
)
async def test_public_routes_need_no_key(closed: RunningGateway, path: str) -> None:
    assert (await closed.http.get(path)).status_code == 200
    assert (await closed.http.head(path)).status_code == 200
    assert (await closed.http.options("/v1/jobs")).status_code == 204


async def test_reply_route_takes_a_token_and_no_key(closed: RunningGateway) -> None:
    job_id = await job_of(closed, "a")
    assert (await closed.reply()).status_code == 202
    answer = await closed.http.get(f"/v1/jobs/{job_id}", headers=bearer("a"))
    assert answer.json()["status"] == "succeeded"
    refused = await closed.http.get(f"/v1/jobs/{job_id}/reply", headers=bearer("a"))
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("reader", "GET", f"/v1/jobs/{NOBODY}", 404),
        ("reader", "HEAD", f"/v1/jobs/{NOBODY}", 404),
        ("reader", "GET", "/v1/jobs", 200),
        ("reader", "DELETE", f"/v1/jobs/{NOBODY}", 403),
        ("reader", "POST", "/v1/models/noop/jobs", 403),
        ("writer", "GET", "/v1/jobs", 403),
        ("writer", "HEAD", "/v1/jobs", 403),
        ("writer", "GET", "/v1/models", 200),
        ("writer", "DELETE", f"/v1/jobs/{NOBODY}", 404),
        ("admin", "GET", "/v1/jobs", 403),
        ("admin", "GET", "/v1/models/noop", 200),
        ("a", "POST", "/v1/admin/anything", 403),
        ("a", "GET", "/v1/admin", 403),
        ("admin", "GET", "/v1/admin/nothing-here", 404),
    ],
)
async def test_scopes_determine_the_permitted_routes(
    closed: RunningGateway, name: str, method: str, path: str, status: int
) -> None:
    answer = await closed.http.request(method, path, headers=bearer(name))
    assert answer.status_code == status
    if status == 403 and method != "HEAD":
        assert answer.json()["code"] == "forbidden"


async def test_rate_limit_is_enforced_and_shown(closed: RunningGateway) -> None:
    for left in (2, 1, 0):
        answer = await closed.http.get("/v1/jobs", headers=bearer("a2"))
        assert answer.status_code == 200
        assert answer.headers["ratelimit"] == f'"default";r={left};t={(3 - left) * 20}'
        assert answer.headers["ratelimit-policy"] == '"default";q=3;w=60'
    refused = await submit_as(closed, "a2")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert refused.json()["retryable"] is True
    assert refused.headers["retry-after"] == "20"
    assert refused.headers["ratelimit"] == '"default";r=0;t=60'
    assert closed.durable.runs == {}
    # Other keys of the tenant and open routes are not limited.
    assert (await closed.http.get("/v1/jobs", headers=bearer("a"))).status_code == 200
    assert (await closed.http.get("/v1/health/live", headers=bearer("a2"))).status_code == 200
    await closed.durable.advance(20)
    assert (await submit_as(closed, "a2")).status_code == 202
    assert "ratelimit" not in (await closed.http.get("/v1/jobs", headers=bearer("a"))).headers


async def test_each_job_of_an_inference_counts_towards_the_rate(closed: RunningGateway) -> None:
    inference = {"inputs": [tensor("YQ==", "Yg==", "Yw==", content_type="base64")]}
    for _ in range(2):
        assert (await closed.http.get("/v1/jobs", headers=bearer("a2"))).status_code == 200
    answer = await infer(
        closed, "noop", inference, [{"result": {"json": 1}}] * 3, headers=bearer("a2")
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["ratelimit"] == '"default";r=0;t=100'
    # Two requests more than the quota are missing. Each one takes 20 s.
    refused = await closed.http.get("/v1/jobs", headers=bearer("a2"))
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "60"
    await closed.durable.advance(60)
    assert (await closed.http.get("/v1/jobs", headers=bearer("a2"))).status_code == 200


@pytest.mark.parametrize(
    ("method", "suffix", "headers"),
    [
        ("GET", "", {}),
        ("GET", "", {"prefer": "wait=1"}),
        ("GET", "", {"if-none-match": "*"}),
        ("HEAD", "", {}),
        ("GET", "/result", {}),
        ("DELETE", "", {}),
    ],
)
@pytest.mark.parametrize("is_final", [True, False])
async def test_job_of_another_tenant_is_unknown(
    closed: RunningGateway, method: str, suffix: str, headers: dict[str, str], is_final: bool
) -> None:
    job_id = await job_of(closed, "a")
    if is_final:
        await closed.reply()

    async def told(asked: str) -> tuple[Any, ...]:
        before = closed.durable.status_count
        path, given = f"/v1/jobs/{asked}{suffix}", {**bearer("b"), **headers}
        answer = await closed.http.request(method, path, headers=given)
        looks = closed.durable.status_count - before
        fields = {name: text for name, text in answer.headers.items() if name != "traceresponse"}
        body = {**answer.json(), "trace_id": None} if answer.content else None
        return answer.status_code, fields, json.dumps(body).replace(asked, "ID"), looks

    known, unknown = await told(job_id), await told(NOBODY)
    assert known == unknown
    assert known[0] == 404
    # The other tenant's job is unchanged.
    owner = await closed.http.get(f"/v1/jobs/{job_id}", headers=bearer("a2"))
    assert owner.json()["status"] == ("succeeded" if is_final else "queued")


async def test_every_route_hides_another_tenants_job(closed: RunningGateway) -> None:
    job_id = await job_of(closed, "a")
    paths = (await closed.http.get("/openapi.json")).json()["paths"]
    routes = [(method, path) for path in paths if "{job_id}" in path for method in paths[path]]
    assert len(routes) >= 5
    for method, path in routes:
        known, unknown = [
            await ask(closed, "b", path.replace("{job_id}", asked), method.upper(), json={})
            for asked in (job_id, NOBODY)
        ]
        needs_token = path.endswith(("/reply", "/progress", "/children"))
        expected = 401 if needs_token else 403 if path.startswith("/v1/admin/") else 404
        assert known.status_code == unknown.status_code == expected, (method, path)


async def test_job_without_a_tenant_is_unknown_to_a_key(closed: RunningGateway) -> None:
    job_id = await job_of(closed, "a")
    run = closed.durable.runs[job_id]
    ticket = json.loads(run.input)
    del ticket["tenant"]
    run.input = json.dumps(ticket)
    answer = await closed.http.get(f"/v1/jobs/{job_id}", headers=bearer("a"))
    assert answer.status_code == 404


async def test_open_gateway_shows_no_tenant(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    assert "tenant" not in await gateway.job(job_id)
    answer = await gateway.http.get("/v1/jobs", headers={"authorization": "Bearer of nothing"})
    assert answer.status_code == 200


async def test_trusted_principal_header_is_accepted() -> None:
    async with open_gateway(trust_principal_header=True) as gateway:
        assert (await gateway.http.get("/v1/jobs")).status_code == 401
        mine = principal_of("t1", "jobs:read", "jobs:write")
        # Azure's authentication also passes on a token of its own, which is not an API key.
        mine["authorization"] = "Bearer eyJ"
        mine["content-type"] = "application/octet-stream"
        answer = await gateway.submit(content=b"x", headers=mine)
        path = answer.headers["location"]
        assert (await gateway.http.get(path, headers=mine)).status_code == 200
        other = principal_of("t2", "jobs:read")
        assert (await gateway.http.get(path, headers=other)).status_code == 404
        without = principal_of("t1")
        assert (await gateway.http.get(path, headers=without)).status_code == 403


async def test_key_is_neither_returned_nor_logged(
    closed: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong = "lsy_" + "w" * 43
    answers = [
        await closed.http.get("/v1/jobs", headers={"x-api-key": wrong}),
        await submit_as(closed, "a"),
        await submit_as(closed, "reader"),
        await closed.http.get("/v1/jobs/x", headers=bearer("a")),
    ]
    closed.durable.is_down = True
    answers.append(await submit_as(closed, "a"))
    assert [answer.status_code for answer in answers] == [401, 202, 403, 404, 503]
    told = caplog.text + "".join(answer.text + str(answer.headers) for answer in answers)
    for key in (wrong, *(key for key, _ in KEYS.values())):
        assert key not in told
    assert all(
        key not in run.input for run in closed.durable.runs.values() for key, _ in KEYS.values()
    )


async def test_tenants_share_no_idempotency_keys(closed: RunningGateway) -> None:
    first, same, other = [
        await submit_as(closed, name, **{"idempotency-key": "1"}) for name in ("a", "a2", "b")
    ]
    assert {answer.status_code for answer in (first, same, other)} == {202}
    assert first.json()["id"] == same.json()["id"]
    assert other.json()["id"] != first.json()["id"]


async def listed(gateway: RunningGateway, name: str, **query: str) -> list[tuple[str, Any]]:
    answer = await ask(gateway, name, "/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [(job["id"], job.get("tenant")) for job in answer.json()["jobs"]]


async def test_filtered_list_has_only_jobs_of_the_tenant(closed: RunningGateway) -> None:
    ours, theirs = [await job_of(closed, name) for name in ("a", "b")]
    for index in range(2):
        await closed.reply(closed.queues.request(index), error=error_body("inference-failed"))
    queries: list[dict[str, str]] = [
        {},
        {"label": "same"},
        {"label": "*"},
        {"code": "inference-failed"},
        {"status": "failed"},
        {"model": "noop"},
        {"created_after": "2026-03-01T00:00:00Z"},
        {"id": theirs[:4] + "*"},
        {"tenant": "acme"},
    ]
    for query in queries:
        for name in ("a", "reader"):
            assert await listed(closed, name, **query) == [(ours, None)], query
    assert await listed(closed, "a", id=theirs) == []
    assert await listed(closed, "b", id=theirs) == [(theirs, None)]


async def test_tenant_parameter_needs_an_operator(closed: RunningGateway) -> None:
    theirs = await job_of(closed, "b")
    for tenant in ("bolt", "*", "unknown", ""):
        for path in ("/v1/jobs", f"/v1/jobs/{theirs}", f"/v1/jobs/{NOBODY}"):
            answer = await ask(closed, "a", path, params={"tenant": tenant})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert "ops:read" in answer.json()["detail"]


async def test_ops_read_sees_jobs_but_no_results(closed: RunningGateway) -> None:
    first, second = [await job_of(closed, name) for name in ("a", "b")]
    await closed.reply(closed.queues.request(0))
    both = [(second, "bolt"), (first, "acme")]
    for name in ("watcher", "acme-watcher"):
        assert await listed(closed, name) == both
        assert await listed(closed, name, label="same", tenant="*") == both
        assert await listed(closed, name, tenant="bolt") == both[:1]
        assert await listed(closed, name, status="succeeded") == both[1:]
    shown = (await ask(closed, "watcher", f"/v1/jobs/{first}")).json()
    assert (shown["status"], shown["tenant"], shown["result"]) == ("succeeded", "acme", None)
    assert (await ask(closed, "watcher", f"/v1/jobs/{first}/result")).status_code == 403
    own = (await ask(closed, "acme-watcher", f"/v1/jobs/{first}")).json()
    assert own["result"] == {"n": 1}
    await closed.reply(closed.queues.request(1))
    other = await ask(closed, "acme-watcher", f"/v1/jobs/{second}")
    assert (other.status_code, other.json()["result"]) == (200, None)
    assert (await ask(closed, "acme-watcher", f"/v1/jobs/{second}/result")).status_code == 404
    (page,) = [(await ask(closed, "acme-watcher", "/v1/jobs")).json()]
    assert [job["result"] for job in page["jobs"]] == [None, {"n": 1}]


async def test_admin_reads_jobs_of_the_given_tenant(closed: RunningGateway) -> None:
    first, second = [await job_of(closed, name) for name in ("a", "b")]
    assert await listed(closed, "acme-admin") == [(first, "acme")]
    assert (await ask(closed, "acme-admin", f"/v1/jobs/{second}")).status_code == 404
    for name in ("acme-admin", "admin"):
        assert await listed(closed, name, tenant="*") == [(second, "bolt"), (first, "acme")]
        assert await listed(closed, name, tenant="bolt") == [(second, "bolt")]
        answer = await ask(closed, name, f"/v1/jobs/{second}", params={"tenant": "*"})
        assert (answer.status_code, answer.json()["tenant"]) == (200, "bolt")
    assert (await ask(closed, "admin", "/v1/jobs")).status_code == 403


async def test_operators_read_every_timeline(closed: RunningGateway) -> None:
    path = f"/v1/jobs/{await job_of(closed, 'b')}/timeline"
    everywhere = {"params": {"tenant": "*"}}
    allowed: list[tuple[str, dict[str, Any]]] = [
        *(("b", {}), ("watcher", {}), ("acme-watcher", {})),
        *(("admin", everywhere), ("acme-admin", everywhere)),
    ]
    for name, options in allowed:
        assert (await ask(closed, name, path, **options)).status_code == 200, name
    refused: list[tuple[str, dict[str, Any], int]] = [
        *(("a", {}, 404), ("acme-admin", {}, 404)),
        *(("a", everywhere, 403), ("admin", {}, 403)),
    ]
    for name, options, status in refused:
        assert (await ask(closed, name, path, **options)).status_code == status, name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/noop/jobs"),
        ("POST", "/v2/models/noop/infer"),
        ("POST", "/v1/uploads"),
        ("DELETE", "/v1/jobs/{job}"),
        ("POST", "/v1/admin/jobs/{job}/webhook/redeliver"),
        ("POST", "/v1/admin/dead-letters/noop/{job}/redrive"),
        ("POST", "/v1/admin/dead-letters/actions"),
        ("DELETE", "/v1/admin/dead-letters/noop/{job}"),
        ("DELETE", "/v1/admin/dead-letters?model=noop"),
        ("PUT", "/v1/admin/dead-letters"),
        ("PUT", "/v1/admin/tenants/acme"),
        ("DELETE", "/v1/admin/tenants/acme"),
    ],
)
async def test_ops_read_can_change_nothing(closed: RunningGateway, method: str, path: str) -> None:
    job_id = await job_of(closed, "a")
    await give_up(closed, encode_request(closed.queues.request()), job_id)
    blobs, runs, sent = dict(closed.payloads.blobs), set(closed.durable.runs), closed.queues.sent[:]
    answer = await ask(closed, "watcher", path.format(job=job_id), method, json={})
    assert (answer.status_code, answer.json().get("code", "forbidden")) == (403, "forbidden")
    assert closed.payloads.blobs == blobs
    assert set(closed.durable.runs) == runs
    assert closed.queues.sent == sent


async def test_ops_read_sees_all_dead_letters(closed: RunningGateway) -> None:
    job_id = await job_of(closed, "a")
    await give_up(closed, encode_request(closed.queues.request()), job_id)
    for name, status in (("watcher", 200), ("admin", 200), ("a", 403)):
        for path in (LETTERS, f"{LETTERS}/count", f"{LETTERS}/noop/{job_id}"):
            assert (await ask(closed, name, path)).status_code == status, (name, path)
        assert (await ask(closed, name, "/v1/models")).status_code == 200
    letters = (await ask(closed, "watcher", LETTERS)).json()["dead_letters"]
    assert [letter["job_id"] for letter in letters] == [job_id]
