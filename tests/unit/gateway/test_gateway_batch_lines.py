"""Test the lines of batches as jobs: reply, show, wait, cancel, list, and the wanted check."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.messages import InlineJson, JobRequest, ReplyUrl, encode_request, format_time
from gateway.batches.ends import encode_end
from gateway.batches.ids import line_id, new_batch_id
from gateway.batches.lines import BATCH_KNOWN
from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.store import ends_blob, segment_blob
from gateway.jobs.model import JobOutcome
from tests.unit.gateway.conftest import (
    RunningGateway,
    error_body,
    open_gateway,
    reply_body,
    write_catalogue,
    write_progress_catalogue,
)
from tests.unit.gateway.dead_letters import give_up, redrive

SEGMENTS = [3, 2]
RESULT = {"result": {"json": {"n": 1}}}


@dataclass
class RunningBatch:
    """A batch of five lines in two segments, whose custom ids are `c1` to `c5`. Four were sent."""

    gateway: RunningGateway
    spec: BatchSpec

    def job(self, number: int) -> str:
        return line_id(self.spec.id, number)

    def url(self, number: int) -> str:
        tokens = self.gateway.services.tokens
        return tokens.url(self.job(number), self.spec.deadline_at, "noop-low", "")

    async def reply(
        self, number: int, gateway: RunningGateway | None = None, **outcome: Any
    ) -> httpx.Response:
        body = reply_body(self.job(number), **(outcome or RESULT))
        return await (gateway or self.gateway).http.post(self.url(number), json=body)

    async def wanted(self, number: int, query: str = "") -> httpx.Response:
        return await self.gateway.http.get(self.url(number) + query)

    async def shown(self, number: int) -> Any:
        return await self.gateway.job(self.job(number))

    async def page(self, **query: Any) -> Any:
        return await self.gateway.get("/v1/jobs", batch=self.spec.id, **query)

    async def numbers(self, **query: Any) -> list[int]:
        jobs = (await self.page(**query))["jobs"]
        return [int(job["custom_id"].removeprefix("c")) for job in jobs]

    def entries(self, index: int) -> list[bytes]:
        blob = self.gateway.payloads.blobs.get(ends_blob(self.spec.id, index))
        return blob[1].splitlines() if blob else []

    async def write_state(self, status: BatchStatus) -> None:
        store = self.gateway.services.batch_store
        _, etag = await store.state(self.spec.id)
        segments = SEGMENTS if status is not BatchStatus.VALIDATING else []
        state = BatchState(status, segments, sent=4 if segments else 0)
        assert await store.write_state(self.spec.id, state, etag)


async def start_batch(
    gateway: RunningGateway, status: BatchStatus = BatchStatus.RUNNING
) -> RunningBatch:
    now = gateway.clock()
    spec = BatchSpec(
        id=new_batch_id(now),
        tenant="",
        model="noop",
        created_at=format_time(now),
        deadline=format_time(now + timedelta(hours=24)),
        blob="uploads/x",
        label="evaluation",
    )
    batch = RunningBatch(gateway, spec)
    await gateway.services.batch_store.create(spec)
    number = 0
    for index, count in enumerate(SEGMENTS):
        rows = [
            b'{"custom_id":"c%d","input":{"json":1}}\n' % (number + n + 1) for n in range(count)
        ]
        gateway.blobs.put(segment_blob(spec.id, index), b"".join(rows))
        number += count
    await batch.write_state(status)
    return batch


@pytest.fixture
async def batch(gateway: RunningGateway) -> RunningBatch:
    return await start_batch(gateway)


class TestLine:
    async def test_is_shown_before_its_end(self, batch: RunningBatch) -> None:
        job = await batch.shown(4)
        assert (job["status"], job["batch"], job["custom_id"]) == ("queued", batch.spec.id, "c4")
        assert (job["model"], job["label"]) == ("noop", "evaluation")
        assert job["queue"]["position"] is None

    async def test_is_shown_after_its_reply(self, batch: RunningBatch) -> None:
        assert (await batch.reply(4)).status_code == 202
        job = await batch.shown(4)
        assert (job["status"], job["result"], job["custom_id"]) == ("succeeded", {"n": 1}, "c4")
        assert (await batch.gateway.get(f"/v1/jobs/{batch.job(4)}/result")) == {"n": 1}
        assert (await batch.shown(5))["status"] == "queued"

    async def test_is_counted(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        await batch.reply(2, error=error_body("inference-failed"))
        noop = batch.gateway.services.counters.totals["noop"]
        assert (noop.succeeded, noop.failed["inference-failed"]) == (1, 1)

    async def test_that_failed_is_logged(
        self, batch: RunningBatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        await batch.reply(1)
        await batch.reply(2, error=error_body("inference-failed"))
        warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert warnings == [f"job {batch.job(2)} of noop ended as failed: inference-failed"]

    async def test_beyond_the_last_is_unknown(self, batch: RunningBatch) -> None:
        assert (await batch.gateway.http.get(f"/v1/jobs/{batch.job(6)}")).status_code == 404

    async def test_id_of_the_batch_is_no_job(self, batch: RunningBatch) -> None:
        path = f"/v1/jobs/{batch.spec.id}"
        assert (await batch.gateway.http.get(path)).status_code == 404
        assert (await batch.gateway.http.delete(path)).status_code == 404

    async def test_of_another_tenant_is_unknown(self, closed: RunningGateway) -> None:
        batch = await start_batch(closed)
        assert (await closed.http.get(f"/v1/jobs/{batch.job(1)}")).status_code == 401

    async def test_has_a_timeline(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        found = await batch.gateway.get(f"/v1/jobs/{batch.job(1)}/timeline")
        assert found["status"] == "succeeded"
        assert found["steps"][-1]["name"] == "final"

    async def test_is_waited_for(self, batch: RunningBatch) -> None:
        path = f"/v1/jobs/{batch.job(2)}"
        getting = batch.gateway.http.get(path, headers={"prefer": "wait=30"})
        waiting = asyncio.create_task(getting)
        for _ in range(20):  # the request reads the line and waits
            await asyncio.sleep(0)
        assert batch.gateway.services.waiters.count == 1
        await batch.reply(2)
        assert (await waiting).json()["status"] == "succeeded"

    async def test_has_no_webhook(self, batch: RunningBatch) -> None:
        answer = await batch.gateway.http.get(f"/v1/jobs/{batch.job(1)}/webhook")
        assert answer.status_code == 404


class TestReply:
    async def test_is_refused_the_second_time(self, batch: RunningBatch) -> None:
        assert (await batch.reply(1)).status_code == 202
        assert (await batch.reply(1)).status_code == 410
        assert len(batch.entries(0)) == 1

    async def test_first_of_two_instances_counts(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        async with open_gateway(beside=batch.gateway) as other:
            await batch.reply(1, other, error=error_body("inference-failed"))
        assert len(batch.entries(0)) == 2
        assert (await batch.shown(1))["status"] == "succeeded"

    async def test_names_the_model_that_ran(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        assert b'"model":"noop"' in batch.entries(0)[0]

    async def test_is_repeated_before_lines_are_known(self, gateway: RunningGateway) -> None:
        batch = await start_batch(gateway, BatchStatus.VALIDATING)
        assert (await batch.reply(1)).status_code == 503
        await batch.write_state(BatchStatus.RUNNING)
        assert (await batch.reply(1)).status_code == 202

    async def test_is_repeated_if_storage_fails(self, batch: RunningBatch) -> None:
        await batch.reply(2)
        batch.gateway.payloads.is_down = True
        assert (await batch.reply(1)).status_code == 503
        batch.gateway.payloads.is_down = False
        assert (await batch.reply(1)).status_code == 202

    async def test_after_the_end_is_refused(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        await batch.write_state(BatchStatus.CANCELLED)
        batch.gateway.clock.now += BATCH_KNOWN + timedelta(seconds=1)
        assert (await batch.reply(2)).status_code == 410
        assert len(batch.entries(0)) == 1

    async def test_for_deleted_batch_is_refused(self, batch: RunningBatch) -> None:
        for name in list(batch.gateway.payloads.blobs):
            await batch.gateway.blobs.delete(name)
        assert (await batch.reply(1)).status_code == 410


class TestDeadLetter:
    async def dead_letter(self, batch: RunningBatch) -> None:
        request = JobRequest(
            job_id=batch.job(2),
            model="noop",
            input=InlineJson(1),
            created_at=batch.gateway.clock(),
            deadline=batch.spec.deadline_at,
            reply_to=ReplyUrl(batch.url(2)),
            batch=batch.spec.id,
        )
        await give_up(batch.gateway, encode_request(request), request.job_id, queue="noop-low")

    async def test_ends_its_line(self, batch: RunningBatch) -> None:
        await self.dead_letter(batch)
        await self.dead_letter(batch)
        assert (await batch.shown(2))["error"]["code"] == "dead-lettered"
        assert len(batch.entries(0)) == 1

    async def test_is_redriven_as_a_job_of_its_own(self, batch: RunningBatch) -> None:
        gateway = batch.gateway
        await self.dead_letter(batch)
        answer = await redrive(gateway, f"{batch.job(2)}~low")
        assert answer.status_code == 202, answer.text
        job = await gateway.job(answer.json()["job_id"])
        assert (job["status"], job["label"]) == ("queued", "evaluation")
        assert "batch" not in job
        assert gateway.queues.request().batch is None
        assert (await batch.shown(2))["status"] == "failed"


CHILD = """
[child]
description = "Echoes."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]
"""


class TestChild:
    async def test_belongs_to_its_line(self, tmp_path: Path) -> None:
        async with open_gateway(catalogue_path=write_catalogue(tmp_path, CHILD)) as gateway:
            batch = await start_batch(gateway)
            url = batch.url(2).replace("/reply?", "/children?") + "&model=child&key=1"
            headers = {"content-type": "application/octet-stream"}
            answer = await gateway.http.post(url, content=b"crop", headers=headers)
            assert answer.status_code == 202, answer.text
            child = await gateway.job(answer.json()["id"])
            assert (child["parent"], child["status"]) == (batch.job(2), "queued")
            await gateway.reply(result={"json": "done"})
            again = await gateway.http.post(url)
            assert (again.status_code, again.json()["id"]) == (200, child["id"])
            await batch.reply(2)
            assert (await gateway.http.post(url + "0")).status_code == 410


class TestEvents:
    async def test_end_with_the_line(self, batch: RunningBatch) -> None:
        await batch.reply(2)
        answer = await batch.gateway.http.get(f"/v1/jobs/{batch.job(2)}/events")
        assert "event: end" in answer.text
        assert '"custom_id":"c2"' in answer.text


class TestCancelledLine:
    async def cancel(self, batch: RunningBatch, number: int) -> httpx.Response:
        return await batch.gateway.http.delete(f"/v1/jobs/{batch.job(number)}")

    async def test_ends(self, batch: RunningBatch) -> None:
        assert (await self.cancel(batch, 2)).status_code == 202
        assert (await batch.shown(2))["status"] == "cancelled"
        assert (await batch.reply(2)).status_code == 410

    async def test_is_counted_if_it_was_sent(self, batch: RunningBatch) -> None:
        await self.cancel(batch, 2)
        await self.cancel(batch, 5)
        assert batch.gateway.services.counters.totals["noop"].cancelled == 1

    async def test_is_not_wanted(self, batch: RunningBatch) -> None:
        await self.cancel(batch, 2)
        assert (await batch.wanted(2)).status_code == 410
        assert (await batch.wanted(1)).status_code == 200

    async def test_is_named_in_the_shared_answer(self, batch: RunningBatch) -> None:
        await self.cancel(batch, 2)
        answer = await batch.wanted(1, "&batch=true")
        assert answer.json() == {"status": "wanted", "cancelled": [batch.job(2)]}

    async def test_that_ended_keeps_its_result(self, batch: RunningBatch) -> None:
        async with open_gateway(beside=batch.gateway) as other:
            await batch.reply(2, other)
        answer = await self.cancel(batch, 2)
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")

    async def test_that_ends_meanwhile_keeps_result(self, batch: RunningBatch) -> None:
        await batch.reply(1)
        lines, now = batch.gateway.services.batch_lines, batch.gateway.clock()
        async with open_gateway(beside=batch.gateway) as other:
            await batch.reply(2, other)
        cancelled = JobOutcome.cancelled(now)
        recorded = await lines.finish(batch.gateway.durable, batch.job(2), cancelled, "noop")
        assert recorded.status == "succeeded"

    async def test_that_runs_ends_at_once(self, tmp_path: Path) -> None:
        catalogue = write_progress_catalogue(tmp_path)
        async with open_gateway(catalogue_path=catalogue) as gateway:
            batch = await start_batch(gateway)
            url = batch.url(2).replace("/reply?", "/progress?")
            report = {"attempt": 1, "sequence": 0, "started_at": batch.spec.created_at}
            assert (await gateway.http.put(url, json=report)).status_code == 200
            assert (await batch.shown(2))["status"] == "running"
            assert (await self.cancel(batch, 2)).status_code == 202
            assert (await batch.shown(2))["status"] == "cancelled"
            assert (await gateway.http.put(url, json=report)).status_code == 410
            stopped = {**report, "stopped": True}
            assert (await gateway.http.put(url, json=stopped)).status_code == 200
            assert len(batch.entries(0)) == 1


class TestWanted:
    async def test_progress_of_cancelled_batch_is_refused(self, batch: RunningBatch) -> None:
        url = batch.url(2).replace("/reply?", "/progress?")
        report = {"attempt": 1, "sequence": 0, "started_at": batch.spec.created_at}
        assert (await batch.gateway.http.put(url, json=report)).status_code == 200
        await batch.gateway.services.batch_store.mark_cancelled(batch.spec.id)
        assert (await batch.gateway.http.put(url, json=report)).status_code == 410

    async def test_is_a_line_that_runs(self, batch: RunningBatch) -> None:
        assert (await batch.wanted(1)).json() == {"status": "wanted"}
        assert (await batch.wanted(1, "&batch=true")).json()["cancelled"] == []

    async def test_is_no_line_that_ended_elsewhere(self, batch: RunningBatch) -> None:
        entry = encode_end(1, JobOutcome.cancelled(batch.gateway.clock()))
        batch.gateway.blobs.put(ends_blob(batch.spec.id, 0), entry + b"\n")
        assert (await batch.wanted(1)).status_code == 410
        assert (await batch.wanted(2)).status_code == 200

    async def test_is_no_line_of_a_cancelled_batch(self, batch: RunningBatch) -> None:
        await batch.gateway.services.batch_store.mark_cancelled(batch.spec.id)
        assert (await batch.wanted(1)).status_code == 410
        assert (await batch.wanted(1, "&batch=true")).status_code == 410


class TestList:
    async def test_has_the_order_of_the_file(self, batch: RunningBatch) -> None:
        await batch.reply(5)
        assert await batch.numbers() == [1, 2, 3, 4, 5]

    async def test_has_pages(self, batch: RunningBatch) -> None:
        page = await batch.page(limit=2)
        shown = [job["custom_id"] for job in page["jobs"]]
        while (path := page["links"]["next"]) is not None:
            page = await batch.gateway.get(path)
            shown += [job["custom_id"] for job in page["jobs"]]
        assert shown == ["c1", "c2", "c3", "c4", "c5"]

    async def test_selects_status_and_code(self, batch: RunningBatch) -> None:
        await batch.reply(2, error=error_body("inference-failed"))
        await batch.reply(5, error=error_body("out-of-memory"))
        await batch.reply(4)
        await batch.gateway.http.delete(f"/v1/jobs/{batch.job(1)}")
        assert await batch.numbers(status="failed") == [2, 5]
        assert await batch.numbers(code="out-of-memory") == [5]
        assert await batch.numbers(code="cancelled") == [1]
        assert await batch.numbers(status="queued") == [3]
        assert await batch.numbers(status="succeeded") == [4]

    async def test_refuses_other_filters(self, batch: RunningBatch) -> None:
        query = {"batch": batch.spec.id, "label": "x"}
        answer = await batch.gateway.http.get("/v1/jobs", params=query)
        assert answer.status_code == 400

    async def test_of_unknown_batch_is_refused(self, batch: RunningBatch) -> None:
        for batch_id in (new_batch_id(batch.gateway.clock()), batch.job(1), "x"):
            answer = await batch.gateway.http.get("/v1/jobs", params={"batch": batch_id})
            assert (answer.status_code, answer.json()["code"]) == (404, "unknown-batch")

    async def test_without_batch_has_no_lines(self, batch: RunningBatch) -> None:
        assert (await batch.gateway.get("/v1/jobs"))["jobs"] == []
