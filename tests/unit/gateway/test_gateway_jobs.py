"""Test the routes that get a job, wait for its end, get its result and cancel it."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway.durable import RuntimeStatus
from tests.unit.gateway.conftest import RunningGateway, error_body
from tests.unit.gateway.named import stored

NOBODY = "018f0000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "job_id", [NOBODY, "x", "?", "%3FshowInput=true", "a%2Fb", "..", NOBODY.upper(), "%ED%A0%80"]
)
@pytest.mark.parametrize("suffix", ["", "/result"])
async def test_unknown_job_gets_404(gateway: RunningGateway, job_id: str, suffix: str) -> None:
    answer = await gateway.http.get(f"/v1/jobs/{job_id}{suffix}")
    assert answer.status_code == 404
    assert answer.json()["code"] in {"unknown-job", "not-found"}
    assert gateway.durable.status_count == (job_id == NOBODY)


async def test_orchestration_of_no_job_gets_404(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.durable.runs[job_id].input = '"something else"'
    assert (await gateway.http.get(f"/v1/jobs/{job_id}")).status_code == 404


async def test_waiting_request_returns_when_the_job_ends(gateway: RunningGateway) -> None:
    path, wait = f"/v1/jobs/{await gateway.accept()}", {"prefer": "wait=100"}
    queued = await gateway.http.get(path)
    assert (queued.json()["status"], queued.headers["retry-after"]) == ("queued", "1")
    waiting = asyncio.create_task(gateway.http.get(path, headers=wait))
    await asyncio.sleep(0)
    await gateway.reply()
    for answer in (await waiting, await gateway.http.get(path, headers=wait)):
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["preference-applied"] == "wait=100"
        assert answer.headers["vary"] == "Prefer"
        assert "retry-after" not in answer.headers


async def result_of(gateway: RunningGateway, **outcome: Any) -> Any:
    job_id = await gateway.accept()
    assert (await gateway.reply(**outcome)).status_code == 202
    return await gateway.http.get(f"/v1/jobs/{job_id}/result")


async def test_result_route_returns_only_the_json_result(gateway: RunningGateway) -> None:
    answer = await result_of(gateway, result={"json": {"label": "Löwe"}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"label": "Löwe"}


@pytest.mark.parametrize(
    "media_type",
    [
        "text/html",
        "TEXT/HTML; charset=utf-8",
        "image/svg+xml",
        "application/xhtml+xml",
        "audio/x+xml",
        "text/plain, text/html",
        "text/plain; charset=utf-8, text/html",
        "audio/wav, text/html",
        "text/javascript",
        "application/octet-stream",
    ],
)
async def test_browser_saves_and_does_not_run_active_results(
    gateway: RunningGateway, media_type: str
) -> None:
    answer = await result_of(gateway, result={"media_type": media_type, "base64": "PHN2Zz4="})
    assert answer.content == b"<svg>"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("media_type", ["image/png", "audio/x-wav", "text/plain; charset=utf-8"])
async def test_browser_shows_passive_results(gateway: RunningGateway, media_type: str) -> None:
    answer = await result_of(gateway, result={"media_type": media_type, "base64": "PHN2Zz4="})
    assert answer.status_code == 200
    assert "content-disposition" not in answer.headers


async def test_large_result_is_a_signed_link(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    data = b"\0" * 500_000
    reference = stored(gateway, job_id, data, "image/png")
    assert (await gateway.reply(result=reference)).status_code == 202
    answer = await gateway.http.get(f"/v1/jobs/{job_id}/result")
    assert (answer.status_code, answer.content) == (303, b"")
    link = httpx.URL(answer.headers["location"])
    assert (link.host, link.path) == ("blobs.test", f"/{reference['blob']}")
    assert link.params["sp"] == "r"
    assert link.params["se"] == "2026-03-01T12:15:00 00:00"
    assert (link.params["rsct"], link.params["rscd"]) == ("image/png", f"{job_id}.png")
    assert answer.headers["cache-control"] == "no-store"
    job = await gateway.job(job_id)
    assert job["result"] is None
    assert "results/" not in str(job)
    shown = await gateway.http.get(f"/v1/jobs/{job_id}/result?redirect=false")
    assert (shown.status_code, shown.headers["cache-control"]) == (200, "no-store")
    assert shown.json() == {
        "url": answer.headers["location"],
        "media_type": "image/png",
        "size_bytes": len(data),
        "expires_at": "2026-03-01T12:15:00.000Z",
    }
    assert shown.headers["location"] == shown.json()["url"]
    followed = await gateway.http.get(f"/v1/jobs/{job_id}/result?redirect=true")
    assert followed.status_code == 303
    gateway.payloads.blobs.clear()
    for query in ("", "?redirect=false"):
        assert (await gateway.http.get(f"/v1/jobs/{job_id}/result{query}")).status_code == 404


async def test_small_result_is_returned_with_any_redirect(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    assert (await gateway.reply(result={"media_type": "application/json", "json": 7})).is_success
    for query in ("", "?redirect=false", "?redirect=true"):
        answer = await gateway.http.get(f"/v1/jobs/{job_id}/result{query}")
        assert (answer.status_code, answer.json()) == (200, 7)
        assert "location" not in answer.headers
    refused = await gateway.http.get(f"/v1/jobs/{job_id}/result?redirect=no")
    assert (refused.status_code, refused.json()["code"]) == (400, "malformed-request")


async def test_result_of_a_queued_job_gets_202(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    answer = await gateway.http.get(f"/v1/jobs/{job_id}/result")
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    assert answer.headers["retry-after"] == "1"


async def test_result_of_a_failed_job_is_a_problem(gateway: RunningGateway) -> None:
    answer = await result_of(gateway, error=error_body("inference-failed"))
    assert (answer.status_code, answer.json()["code"]) == (409, "no-result")
    assert answer.json()["job"]["status"] == "failed"


async def test_reply_to_a_cancelled_job_is_refused(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    answer = await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert answer.status_code == 202
    assert answer.json()["status"] == "cancelling"
    job = await gateway.job(job_id)
    assert job["status"] == "cancelled"
    assert job["finished_at"] is not None
    again = await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()) == (200, job)
    late = await gateway.reply()
    assert (late.status_code, late.json()["code"]) == (410, "already-final")
    assert await gateway.job(job_id) == job


@pytest.mark.parametrize(
    ("runtime_status", "status", "code"),
    [
        (RuntimeStatus.PENDING, "queued", None),
        (RuntimeStatus.RUNNING, "queued", None),
        (RuntimeStatus.SUSPENDED, "queued", None),
        (RuntimeStatus.CONTINUED_AS_NEW, "queued", None),
        (RuntimeStatus.FAILED, "failed", "unavailable"),
        (RuntimeStatus.TERMINATED, "cancelled", None),
        (RuntimeStatus.CANCELED, "cancelled", None),
    ],
)
async def test_status_comes_from_the_orchestration(
    gateway: RunningGateway, runtime_status: RuntimeStatus, status: str, code: str | None
) -> None:
    job_id = await gateway.accept()
    gateway.durable.runs[job_id].status = runtime_status
    job = await gateway.job(job_id)
    assert job["status"] == status
    assert (job["error"] or {}).get("code") == code
    assert (job["finished_at"] is not None) == runtime_status.is_final


async def test_jobs_cannot_be_read_while_durable_is_down(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.durable.is_down = True
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs"):
        answer = await gateway.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
