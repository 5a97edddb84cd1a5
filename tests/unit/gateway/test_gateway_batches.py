"""Test the routes of batches: create, show, list, cancel, and the output as it grows."""

import json
from typing import Any

import httpx
import pytest

from contract.names import batch_instance
from gateway.batches.ids import is_batch_id, line_id
from gateway.batches.model import BatchState, BatchStatus
from gateway.batches.store import results_blob, state_blob
from tests.unit.gateway.conftest import RunningGateway


def line(custom_id: str = "a", **members: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "input": {"text": "hello"}, **members}


async def create(gateway: RunningGateway, **members: Any) -> httpx.Response:
    """Create a batch of the model noop with one line, unless `members` says something else."""
    body = {"model": "noop", "items": [line()], **members}
    given = {name: value for name, value in body.items() if value is not None}
    return await gateway.http.post("/v1/batches", json=given)


async def set_state(gateway: RunningGateway, batch_id: str, state: BatchState) -> None:
    """Replace the state of a batch, as its step does."""
    store = gateway.services.batches.store
    _, etag = await store.state(batch_id)
    assert await store.write_state(batch_id, state, etag)


async def upload(gateway: RunningGateway, data: bytes) -> str:
    """Upload the file of a batch; return the id of the upload."""
    answer = await gateway.http.post("/v1/uploads", json={"purpose": "batch"})
    assert answer.status_code == 201, answer.text
    slot = answer.json()
    gateway.blobs.put(httpx.URL(slot["url"]).path[1:], data, slot["headers"]["content-type"])
    return str(slot["upload"])


class TestCreate:
    async def test_new_batch_is_shown(self, gateway: RunningGateway) -> None:
        answer = await create(gateway, label="pictures", metadata={"user": "7"})
        assert answer.status_code == 202, answer.text
        batch = answer.json()
        path = f"/v1/batches/{batch['id']}"
        assert answer.headers["location"] == path
        assert batch == {
            "id": batch["id"],
            "model": "noop",
            "version": None,
            "label": "pictures",
            "metadata": {"user": "7"},
            "status": "validating",
            "created_at": "2026-03-01T12:00:00.000Z",
            "started_at": None,
            "finished_at": None,
            "deadline": "2026-03-02T12:00:00.000Z",
            "counts": {
                "total": 0,
                "waiting": 0,
                "running": 0,
                "succeeded": 0,
                "failed": 0,
                "expired": 0,
                "cancelled": 0,
            },
            "progress": {"fraction": None},
            "estimate": {"rate_per_second": None, "eta_seconds": None},
            "errors": [],
            "error_codes": {},
            "links": {
                "self": path,
                "results": f"{path}/results",
                "errors": f"{path}/errors",
                "cancel": path,
                "jobs": f"/v1/jobs?batch={batch['id']}",
            },
        }
        assert is_batch_id(batch["id"])
        assert gateway.durable.runs[batch_instance(batch["id"])].input == batch["id"]
        assert await gateway.get(path) == batch

    async def test_items_are_checked_at_once(self, gateway: RunningGateway) -> None:
        answer = await create(gateway, items=[line(), line(), line("b", more=1)])
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["code"] == "invalid-batch"
        assert [(each["line"], each["code"]) for each in problem["errors"]] == [
            (2, "duplicate-custom-id"),
            (3, "malformed-request"),
        ]
        assert not gateway.durable.runs

    async def test_uploaded_file_is_accepted(self, gateway: RunningGateway) -> None:
        name = await upload(gateway, json.dumps(line()).encode())
        answer = await create(gateway, items=None, file={"upload": name})
        assert answer.status_code == 202, answer.text
        spec = await gateway.services.batches.store.spec(answer.json()["id"])
        assert spec is not None
        checked = await gateway.services.intake.validate(spec)
        assert (checked.segments, checked.problems) == ([1], [])

    async def test_key_creates_one_batch(self, gateway: RunningGateway) -> None:
        headers, body = {"idempotency-key": "k"}, {"model": "noop", "items": [line()]}
        first = await gateway.http.post("/v1/batches", json=body, headers=headers)
        again = await gateway.http.post("/v1/batches", json=body, headers=headers)
        assert first.json()["id"] == again.json()["id"]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert len(gateway.durable.started) == 1
        other = await gateway.http.post("/v1/batches", json={**body, "label": "x"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


class TestPrepare:
    async def test_line_becomes_a_job(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        spec = await gateway.services.batches.store.spec(batch_id)
        assert spec is not None
        job = await gateway.services.intake.prepare(spec, 1, json.dumps(line()).encode())
        assert job.job_id == line_id(batch_id, 1)
        assert job.request.deadline == spec.deadline_at


class TestOutput:
    async def test_output_grows(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        path = f"/v1/batches/{batch_id}/results"
        empty = await gateway.http.get(path)
        assert (empty.status_code, empty.content) == (200, b"")
        gateway.blobs.put(results_blob(batch_id), b"one\n")
        assert (await gateway.http.get(path)).content == b"one\n"
        gateway.blobs.put(results_blob(batch_id), b"one\ntwo\n")
        rest = await gateway.http.get(path, headers={"range": "bytes=4-"})
        assert (rest.status_code, rest.content) == (206, b"two\n")
        assert rest.headers["content-range"] == "bytes 4-7/8"
        none = await gateway.http.get(path, headers={"range": "bytes=8-"})
        assert (none.status_code, none.headers["content-range"]) == (416, "bytes */8")


class TestCancel:
    async def test_cancelled_batch_is_marked(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        answer = await gateway.http.delete(f"/v1/batches/{batch_id}")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
        assert await gateway.services.batches.store.is_cancelled(batch_id)

    async def test_ended_batch_stays(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        await set_state(gateway, batch_id, BatchState(BatchStatus.SUCCEEDED))
        answer = await gateway.http.delete(f"/v1/batches/{batch_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


class TestList:
    async def test_pages_follow_each_other(self, gateway: RunningGateway) -> None:
        made = []
        for number in range(3):
            gateway.clock.now = gateway.clock.now.replace(second=number)
            made.append((await create(gateway, label=f"batch {number}")).json()["id"])
        page = await gateway.get("/v1/batches", limit=2)
        assert [each["id"] for each in page["batches"]] == made[:0:-1]
        last = await gateway.get(page["links"]["next"])
        assert [each["id"] for each in last["batches"]] == made[:1]
        assert last["next_cursor"] is None
        found = await gateway.get("/v1/batches", label="batch 1")
        assert [each["id"] for each in found["batches"]] == [made[1]]

    async def test_final_state_is_read_once(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        for status in (BatchStatus.RUNNING, BatchStatus.SUCCEEDED):
            await set_state(gateway, batch_id, BatchState(status))
            page = await gateway.get("/v1/batches")
            assert page["batches"][0]["status"] == status
        await gateway.blobs.delete(state_blob(batch_id))
        assert await gateway.get("/v1/batches") == page


@pytest.mark.parametrize("path", ["no-batch", "01982f0c-5f0e-8d4a-9a53-0d2c1b3f0000"])
async def test_unknown_batch_is_a_problem(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.http.get(f"/v1/batches/{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-batch")
