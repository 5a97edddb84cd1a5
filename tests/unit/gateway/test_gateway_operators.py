"""Test what callers with the scopes ops:read and admin can read and change."""

from typing import Any

import pytest

from contract.messages import encode_request
from tests.unit.gateway.api_keys import ask, job_of
from tests.unit.gateway.conftest import RunningGateway, error_body
from tests.unit.gateway.dead_letters import LETTERS, give_up

NOBODY = "018f0000-0000-7000-8000-000000000000"


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
