"""Test the routes of batches: create, show, list, cancel, and the output as it grows."""

import asyncio
import gzip
import json
from datetime import datetime, timedelta
from typing import Any, ClassVar

import httpx
import pytest

from contract.names import batch_instance
from gateway.batches import create as creation
from gateway.batches.ids import is_batch_id, line_id
from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.store import results_blob, state_blob
from gateway.errors import Unavailable
from gateway.http.routes.batches import MAX_DIRECT_BYTES
from tests.unit.gateway.api_keys import ask
from tests.unit.gateway.conftest import RunningGateway

NO_UPLOAD = "018f0000-0000-7000-8000-000000000000"


def line(custom_id: str = "a", **members: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "input": {"text": "hello"}, **members}


def body(**members: Any) -> dict[str, Any]:
    """Return the body of a request for a batch of the model noop with one line."""
    return {"model": "noop", "items": [line()], **members}


async def create(gateway: RunningGateway, **members: Any) -> httpx.Response:
    """Create a batch of the model noop with one line, unless `members` says something else."""
    given = {name: value for name, value in body(**members).items() if value is not None}
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

    @pytest.mark.parametrize("seconds", [1, 60.0, 604_800])
    async def test_deadline_is_chosen(self, gateway: RunningGateway, seconds: float) -> None:
        answer = await create(gateway, deadline_seconds=seconds)
        expected = gateway.clock.now + timedelta(seconds=seconds)
        assert datetime.fromisoformat(answer.json()["deadline"]) == expected

    async def test_items_are_checked_at_once(self, gateway: RunningGateway) -> None:
        answer = await create(gateway, items=[line(), line(), line("b", more=1)])
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["code"] == "invalid-batch"
        assert [(each["line"], each["code"]) for each in problem["errors"]] == [
            (2, "duplicate-custom-id"),
            (3, "malformed-request"),
        ]
        assert problem["detail"].startswith("line 2: custom_id: line 1 has the same")
        assert not gateway.durable.runs
        answer = await create(gateway, items=[line("cat.jpg", more=1)])
        assert answer.json()["detail"].startswith("line 1 ('cat.jpg'): unknown member more")

    async def test_uploaded_file_is_accepted(self, gateway: RunningGateway) -> None:
        name = await upload(gateway, json.dumps(line()).encode())
        answer = await create(gateway, items=None, file={"upload": name})
        assert answer.status_code == 202, answer.text
        spec = await gateway.services.batches.store.spec(answer.json()["id"])
        assert spec is not None
        checked = await gateway.services.intake.validate(spec)
        assert (checked.segments, checked.problems) == ([1], [])

    async def test_key_creates_one_batch(self, gateway: RunningGateway) -> None:
        headers = {"idempotency-key": "k"}
        first = await gateway.http.post("/v1/batches", json=body(), headers=headers)
        again = await gateway.http.post("/v1/batches", json=body(), headers=headers)
        assert first.json()["id"] == again.json()["id"]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert len(gateway.durable.started) == 1
        other = await gateway.http.post("/v1/batches", json=body(label="x"), headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


BAD_BODIES: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "malformed-request"),
    "a list": ([], 400, "malformed-request"),
    "no model": ({"items": [line()]}, 400, "malformed-request"),
    "another type of model": ({"model": 1, "items": [line()]}, 400, "malformed-request"),
    "an unknown model": ({"model": "nop", "items": [line()]}, 404, "unknown-model"),
    "an unknown version": ({"model": "noop:9", "items": [line()]}, 404, "unknown-model"),
    "no lines": ({"model": "noop"}, 400, "malformed-request"),
    "an empty list": ({"model": "noop", "items": []}, 400, "malformed-request"),
    "too many items": ({"model": "noop", "items": [line()] * 1001}, 400, "malformed-request"),
    "items and a file": (
        {"model": "noop", "items": [line()], "file": {"upload": NO_UPLOAD}},
        400,
        "malformed-request",
    ),
    "a text as item": ({"model": "noop", "items": ["x"]}, 422, "invalid-batch"),
    "half a surrogate pair": (
        b'{"model": "noop", "items": [{"custom_id": "\\ud800"}]}',
        400,
        "malformed-request",
    ),
    "an unknown upload": ({"model": "noop", "file": {"upload": NO_UPLOAD}}, 422, "invalid-input"),
    "a long upload id": ({"model": "noop", "file": {"upload": "x" * 500}}, 422, "invalid-input"),
    "a file without upload": ({"model": "noop", "file": {}}, 400, "malformed-request"),
    "an unknown member": ({"model": "noop", "items": [line()], "x": 1}, 400, "malformed-request"),
    "a deadline of zero": (body(deadline_seconds=0), 400, "malformed-request"),
    "a deadline of eight days": (body(deadline_seconds=691_200), 400, "malformed-request"),
    "half a second": (body(deadline_seconds=1.5), 400, "malformed-request"),
    "true as deadline": (body(deadline_seconds=True), 400, "malformed-request"),
    "an empty label": (body(label=""), 400, "malformed-request"),
    "a list as parameters": (body(parameters=[]), 400, "malformed-request"),
    "a number as metadata": (body(metadata={"a": 1}), 400, "malformed-request"),
    "a text as webhook": (body(webhook="https://example.org"), 400, "malformed-request"),
    "a webhook without secrets": (
        body(webhook={"url": "https://example.org"}),
        422,
        "invalid-input",
    ),
    "more than 4 MiB": (b" " * 5_000_000, 413, "payload-too-large"),
}


@pytest.mark.parametrize(("sent", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES)
async def test_bad_request_is_refused(
    gateway: RunningGateway, sent: Any, status: int, code: str
) -> None:
    data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    answer = await gateway.http.post("/v1/batches", content=data)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert not gateway.durable.runs
    assert not gateway.payloads.blobs


class TestFile:
    async def test_compressed_file_is_refused(self, gateway: RunningGateway) -> None:
        name = await upload(gateway, gzip.compress(b"{}"))
        answer = await create(gateway, items=None, file={"upload": name})
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert (error["line"], error["code"]) == (None, "unreadable-file")
        gateway.blobs.content_encoding = "gzip"
        answer = await create(gateway, items=None, file={"upload": name})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")

    async def test_large_file_is_refused(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(creation, "MAX_FILE_BYTES", 10)
        name = await upload(gateway, b"x" * 11)
        answer = await create(gateway, items=None, file={"upload": name})
        assert (answer.status_code, answer.json()["limit_bytes"]) == (413, 10)

    async def test_upload_of_another_tenant_is_unknown(self, closed: RunningGateway) -> None:
        made = await ask(closed, "b", "/v1/uploads", "POST", json={"purpose": "batch"})
        slot = made.json()
        closed.blobs.put(httpx.URL(slot["url"]).path[1:], b"{}", "application/jsonl")
        sent = {"model": "noop", "file": {"upload": slot["upload"]}}
        answer = await ask(closed, "a", "/v1/batches", "POST", json=sent)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")

    @pytest.mark.parametrize(
        ("asked", "status"),
        [
            ({"purpose": "batch"}, 201),
            ({"purpose": "batch", "media_type": "application/x-ndjson"}, 201),
            ({"purpose": "batch", "media_type": "image/png"}, 415),
            ({"purpose": "batch", "media_type": {}}, 415),
            ({"purpose": "batch", "model": "noop"}, 400),
            ({"purpose": "input", "model": "noop"}, 400),
            ({"purpose": None}, 400),
        ],
    )
    async def test_purpose_is_checked(
        self, gateway: RunningGateway, asked: dict[str, Any], status: int
    ) -> None:
        answer = await gateway.http.post("/v1/uploads", json=asked)
        assert answer.status_code == status
        if status == 201:
            assert answer.json()["max_bytes"] == 1024**3


class TestKey:
    HEADERS: ClassVar = {"idempotency-key": "k"}

    async def test_refused_request_does_not_use_the_key(self, gateway: RunningGateway) -> None:
        wrong = body(items=[line(), line()])
        answer = await gateway.http.post("/v1/batches", json=wrong, headers=self.HEADERS)
        assert answer.status_code == 422
        answer = await gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS)
        assert answer.status_code == 202

    async def test_repeat_goes_on_after_a_failure(self, gateway: RunningGateway) -> None:
        gateway.durable.starts_left = 0
        answer = await gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS)
        assert answer.status_code == 503
        gateway.durable.starts_left = 1
        answer = await gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS)
        assert answer.status_code == 202
        page = await gateway.get("/v1/batches")
        assert gateway.durable.started == [batch_instance(answer.json()["id"])]
        assert [each["id"] for each in page["batches"]] == [answer.json()["id"]]

    async def test_repeat_goes_on_before_the_spec(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def die(spec: BatchSpec) -> None:
            raise Unavailable("blobs", "killed")

        with monkeypatch.context() as patch:
            patch.setattr(gateway.services.batches.store, "create", die)
            answer = await gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS)
            assert answer.status_code == 503
        ids = set()
        for _ in range(2):
            answer = await gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS)
            ids.add(answer.json()["id"])
        assert len(ids) == len(gateway.durable.started) == 1

    async def test_repeat_at_the_same_time_is_the_same(self, gateway: RunningGateway) -> None:
        answers = await asyncio.gather(
            *(gateway.http.post("/v1/batches", json=body(), headers=self.HEADERS) for _ in range(5))
        )
        assert len({answer.json()["id"] for answer in answers}) == 1

    async def test_repeat_does_not_need_the_upload(self, gateway: RunningGateway) -> None:
        sent = {"model": "noop", "file": {"upload": await upload(gateway, b"{}")}}
        first = await gateway.http.post("/v1/batches", json=sent, headers=self.HEADERS)
        gateway.clock.now += timedelta(hours=7)
        again = await gateway.http.post("/v1/batches", json=sent, headers=self.HEADERS)
        assert first.json()["id"] == again.json()["id"]


class TestTenants:
    async def create(self, closed: RunningGateway, name: str = "a") -> str:
        answer = await ask(closed, name, "/v1/batches", "POST", json=body())
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def test_others_do_not_see_a_batch(self, closed: RunningGateway) -> None:
        path = f"/v1/batches/{await self.create(closed)}"
        for end, method in (("", "GET"), ("", "DELETE"), ("/results", "GET"), ("/errors", "GET")):
            answer = await ask(closed, "b", path + end, method)
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown-batch")
        assert (await ask(closed, "b", "/v1/batches")).json()["batches"] == []
        assert len((await ask(closed, "reader", "/v1/batches")).json()["batches"]) == 1

    async def test_scopes_are_those_of_jobs(self, closed: RunningGateway) -> None:
        path = f"/v1/batches/{await self.create(closed)}"
        for name, end, method, status in (
            ("reader", "", "GET", 200),
            ("reader", "", "DELETE", 403),
            ("writer", "", "GET", 403),
            ("watcher", "", "GET", 200),
            ("watcher", "/results", "GET", 403),
            ("watcher", "?tenant=*", "DELETE", 403),
            ("admin", "", "DELETE", 403),
            ("admin", "?tenant=acme", "DELETE", 202),
            ("writer", "", "DELETE", 202),
        ):
            answer = await ask(closed, name, path + end, method)
            assert answer.status_code == status, (name, end, method, answer.text)
        assert (await ask(closed, "reader", "/v1/batches", "POST", json=body())).status_code == 403

    async def test_operator_sees_the_tenant(self, closed: RunningGateway) -> None:
        batch_id = await self.create(closed)
        page = (await ask(closed, "watcher", "/v1/batches?tenant=*")).json()
        assert [(each["id"], each["tenant"]) for each in page["batches"]] == [(batch_id, "acme")]

    async def test_batches_of_a_tenant_are_limited(
        self, closed: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(creation, "MAX_BATCHES", 2)
        for name in ("a", "a"):
            await self.create(closed, name)
        answer = await ask(closed, "a", "/v1/batches", "POST", json=body())
        assert (answer.status_code, answer.json()["code"]) == (429, "too-many-batches")
        assert int(answer.headers["retry-after"]) > 0
        await self.create(closed, "b")


class TestWait:
    async def test_wait_ends_with_the_batch(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        path, headers = f"/v1/batches/{batch_id}", {"prefer": "wait=60"}
        waiting = asyncio.create_task(gateway.http.get(path, headers=headers))
        await asyncio.sleep(0)
        await set_state(gateway, batch_id, BatchState(BatchStatus.SUCCEEDED, [3], 3, succeeded=3))
        answer = await waiting
        assert answer.headers["preference-applied"] == "wait=60"
        batch = answer.json()
        assert batch["progress"] == {"fraction": 1.0}
        assert "retry-after" not in answer.headers
        same = await gateway.http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert same.status_code == 304

    async def test_running_batch_has_an_estimate(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        state = BatchState(BatchStatus.RUNNING, [250, 50], 100, succeeded=30, failed=10, rate=20.0)
        await set_state(gateway, batch_id, state)
        batch = await gateway.get(f"/v1/batches/{batch_id}")
        assert batch["counts"] == {
            "total": 300,
            "waiting": 200,
            "running": 60,
            "succeeded": 30,
            "failed": 10,
            "expired": 0,
            "cancelled": 0,
        }
        assert batch["estimate"] == {"rate_per_second": 20.0, "eta_seconds": 13.0}


class TestPrepare:
    async def test_line_becomes_a_job(self, gateway: RunningGateway) -> None:
        batch_id = (await create(gateway)).json()["id"]
        spec = await gateway.services.batches.store.spec(batch_id)
        assert spec is not None
        job = await gateway.services.intake.prepare(spec, 1, json.dumps(line()).encode())
        assert job.job_id == line_id(batch_id, 1)
        assert job.request.deadline == spec.deadline_at


class TestOutput:
    @pytest.fixture
    async def path(self, gateway: RunningGateway) -> str:
        """Return the path of the results of a new batch."""
        return f"/v1/batches/{(await create(gateway)).json()['id']}/results"

    async def put(self, gateway: RunningGateway, path: str, data: bytes) -> None:
        gateway.blobs.put(results_blob(path.split("/")[3]), data)

    async def test_output_grows(self, gateway: RunningGateway, path: str) -> None:
        empty = await gateway.http.get(path)
        assert (empty.status_code, empty.content) == (200, b"")
        await self.put(gateway, path, b"one\n")
        first = await gateway.http.get(path)
        assert first.content == b"one\n"
        assert first.headers["content-type"] == "application/jsonl"
        same = {"if-none-match": first.headers["etag"]}
        assert (await gateway.http.get(path, headers=same)).status_code == 304
        await self.put(gateway, path, b"one\ntwo\n")
        assert (await gateway.http.get(path, headers=same)).content == b"one\ntwo\n"

    @pytest.mark.parametrize(
        ("asked", "content", "range_"),
        [
            ("bytes=4-", b"two\n", "bytes 4-7/8"),
            ("bytes=0-0", b"o", "bytes 0-0/8"),
            ("bytes=0-99", b"one\ntwo\n", "bytes 0-7/8"),
            ("bytes=-4", b"two\n", "bytes 4-7/8"),
            ("bytes=-99", b"one\ntwo\n", "bytes 0-7/8"),
        ],
    )
    async def test_range_is_returned(
        self, gateway: RunningGateway, path: str, asked: str, content: bytes, range_: str
    ) -> None:
        await self.put(gateway, path, b"one\ntwo\n")
        part = await gateway.http.get(path, headers={"range": asked})
        assert (part.status_code, part.content) == (206, content)
        assert part.headers["content-range"] == range_

    @pytest.mark.parametrize("asked", ["bytes=8-", "bytes=99-100", "bytes=-0"])
    async def test_range_beyond_the_end(
        self, gateway: RunningGateway, path: str, asked: str
    ) -> None:
        await self.put(gateway, path, b"one\ntwo\n")
        answer = await gateway.http.get(path, headers={"range": asked})
        assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */8")
        assert answer.json()["code"] == "range-not-satisfiable"

    @pytest.mark.parametrize(
        "asked", ["bytes=0-1,4-5", "bytes=5-4", "lines=1-", "bytes=-", "bytes=x-"]
    )
    async def test_other_ranges_are_ignored(
        self, gateway: RunningGateway, path: str, asked: str
    ) -> None:
        await self.put(gateway, path, b"one\ntwo\n")
        assert (await gateway.http.get(path, headers={"range": asked})).status_code == 200

    async def test_range_of_an_older_version_is_ignored(
        self, gateway: RunningGateway, path: str
    ) -> None:
        await self.put(gateway, path, b"one\ntwo\n")
        headers = {"range": "bytes=4-", "if-range": '"old"'}
        assert (await gateway.http.get(path, headers=headers)).status_code == 200

    async def test_large_output_is_a_link(self, gateway: RunningGateway, path: str) -> None:
        await self.put(gateway, path, b"x" * (MAX_DIRECT_BYTES + 1))
        answer = await gateway.http.get(path)
        assert answer.status_code == 303
        assert "/results?" in answer.headers["location"]
        shown = await gateway.http.get(path, params={"redirect": "false"})
        assert shown.json()["url"] == shown.headers["location"]
        assert shown.json()["size_bytes"] == MAX_DIRECT_BYTES + 1
        part = await gateway.http.get(path, headers={"range": "bytes=1-"})
        assert (part.status_code, len(part.content)) == (206, MAX_DIRECT_BYTES)


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

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"label": "batch 1"}, [1]),
            ({"label": "batch*"}, [2, 1, 0]),
            ({"label": "batch"}, []),
            ({"metadata": "number=2"}, [2]),
            ({"metadata": "number=*"}, [2, 1, 0]),
            ({"model": "noop"}, [2, 1, 0]),
            ({"model": "classifier"}, []),
            ({"status": "validating"}, [2, 1]),
            ({"status": "failed"}, [0]),
            ({"created_after": "2026-03-01T12:00:01Z"}, [2, 1]),
            ({"created_before": "2026-03-01T12:00:01Z"}, [0]),
            ({"created_after": "2026-03-01T12:00:01Z", "label": "batch 0"}, []),
        ],
    )
    async def test_search_finds_by_its_options(
        self, gateway: RunningGateway, query: dict[str, str], expected: list[int]
    ) -> None:
        made = []
        for number in range(3):
            gateway.clock.now = gateway.clock.now.replace(second=number)
            about = {"label": f"batch {number}", "metadata": {"number": str(number)}}
            made.append((await create(gateway, **about)).json()["id"])
        await set_state(gateway, made[0], BatchState(BatchStatus.FAILED))
        page = await gateway.get("/v1/batches", **query)
        assert [made.index(each["id"]) for each in page["batches"]] == expected

    @pytest.mark.parametrize(
        "query", ["status=done", "cursor=x", "label=", "metadata=x", "created_after=now", "x=1"]
    )
    async def test_wrong_option_is_refused(self, gateway: RunningGateway, query: str) -> None:
        answer = await gateway.http.get(f"/v1/batches?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")

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
