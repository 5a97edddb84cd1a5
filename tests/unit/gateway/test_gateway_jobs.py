"""Jobs: looking, waiting, results, cancelling."""

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from gateway.durable import RuntimeStatus
from tests.unit.gateway.conftest import World, error_body

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

NOBODY = "018f0000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    "job_id", [NOBODY, "x", "?", "%3FshowInput=true", "a%2Fb", "..", NOBODY.upper(), "%ED%A0%80"]
)
@pytest.mark.parametrize("suffix", ["", "/result"])
async def test_unknown_jobs(world: World, job_id: str, suffix: str) -> None:
    answer = await world.http.get(f"/v1/jobs/{job_id}{suffix}")
    assert answer.status_code == 404
    assert answer.json()["code"] in {"unknown-job", "not-found"}
    assert world.durable.status_count <= 1


async def test_only_job_ids_reach_the_store(world: World) -> None:
    await world.http.get("/v1/jobs/%3FshowInput=true")
    assert world.durable.status_count == 0


async def test_another_orchestration_is_no_job(world: World) -> None:
    job_id = await world.accept()
    world.durable.runs[job_id].input = '"something else"'
    assert (await world.http.get(f"/v1/jobs/{job_id}")).status_code == 404


async def test_waiting_for_a_job_that_ends(world: World) -> None:
    job_id = await world.accept()
    waiting = asyncio.create_task(
        world.http.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=100"})
    )
    await asyncio.sleep(0)
    await world.reply()
    answer = await waiting
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=100"
    assert answer.headers["vary"] == "Prefer"
    assert "retry-after" not in answer.headers


async def test_waiting_for_a_job_that_has_ended(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    answer = await world.http.get(f"/v1/jobs/{job_id}", headers={"prefer": "wait=100"})
    assert answer.json()["status"] == "succeeded"


async def test_a_job_that_has_not_ended(world: World) -> None:
    job_id = await world.accept()
    answer = await world.http.get(f"/v1/jobs/{job_id}")
    assert answer.json()["status"] == "queued"
    assert answer.headers["retry-after"] == "1"


async def test_an_unknown_query_parameter(world: World) -> None:
    answer = await world.http.get(f"/v1/jobs/{NOBODY}", params={"wait": "10"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")


async def result_of(world: World, **outcome: Any) -> Any:
    job_id = await world.accept()
    assert (await world.reply(**outcome)).status_code == 202
    return await world.http.get(f"/v1/jobs/{job_id}/result")


async def test_a_json_result_alone(world: World) -> None:
    answer = await result_of(world, result={"json": {"label": "Löwe"}})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"label": "Löwe"}


async def test_a_picture_as_result(world: World) -> None:
    answer = await result_of(world, result={"media_type": "image/png", "base64": "iVBORw=="})
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == b"\x89PNG"


async def test_a_large_result_is_at_a_signed_link(world: World) -> None:
    job_id = await world.accept()
    data = b"\0" * 500_000
    world.payloads.blobs[f"results/{job_id}"] = ("image/png", data)
    reference = {
        "media_type": "image/png",
        "blob": f"results/{job_id}",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert (await world.reply(result=reference)).status_code == 202
    answer = await world.http.get(f"/v1/jobs/{job_id}/result")
    assert (answer.status_code, answer.content) == (303, b"")
    link = httpx.URL(answer.headers["location"])
    assert (link.host, link.path) == ("blobs.test", f"/results/{job_id}")
    assert link.params["sp"] == "r"
    assert link.params["se"] == "2026-03-01T12:15:00 00:00"
    assert (link.params["rsct"], link.params["rscd"]) == ("image/png", f"{job_id}.png")
    assert answer.headers["cache-control"] == "no-store"
    job = await world.job(job_id)
    assert job["result"] is None
    assert "results/" not in str(job)
    world.payloads.blobs.clear()
    assert (await world.http.get(f"/v1/jobs/{job_id}/result")).status_code == 404


async def test_a_result_that_is_not_there_yet(world: World) -> None:
    job_id = await world.accept()
    answer = await world.http.get(f"/v1/jobs/{job_id}/result")
    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"
    assert answer.headers["location"] == f"/v1/jobs/{job_id}"
    assert answer.headers["retry-after"] == "1"


async def test_a_job_that_ended_without_result(world: World) -> None:
    answer = await result_of(world, error=error_body("inference-failed"))
    assert (answer.status_code, answer.json()["code"]) == (409, "no-result")
    assert answer.json()["job"]["status"] == "failed"


async def test_cancelling(world: World) -> None:
    job_id = await world.accept()
    answer = await world.http.delete(f"/v1/jobs/{job_id}")
    assert answer.status_code == 202
    assert answer.json()["status"] == "cancelling"
    job = await world.job(job_id)
    assert job["status"] == "cancelled"
    assert job["finished_at"] is not None
    again = await world.http.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()) == (200, job)
    late = await world.reply()
    assert (late.status_code, late.json()["code"]) == (410, "already-final")
    assert await world.job(job_id) == job


async def test_cancelling_what_has_ended_changes_nothing(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    answer = await world.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_cancelling_an_unknown_job(world: World) -> None:
    answer = await world.http.delete(f"/v1/jobs/{NOBODY}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-job")


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
async def test_every_runtime_status_is_a_job_status(
    world: World, runtime_status: RuntimeStatus, status: str, code: str | None
) -> None:
    job_id = await world.accept()
    world.durable.runs[job_id].status = runtime_status
    job = await world.job(job_id)
    assert job["status"] == status
    assert (job["error"] or {}).get("code") == code
    assert (job["finished_at"] is not None) == runtime_status.is_final


async def test_the_store_is_down(world: World) -> None:
    job_id = await world.accept()
    world.durable.is_down = True
    answer = await world.http.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
