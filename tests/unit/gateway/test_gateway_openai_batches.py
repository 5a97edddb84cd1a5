"""Test the batches and uploads of the OpenAI API with the unmodified package `openai`."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import openai
import pytest
from openai import AsyncOpenAI

from contract.messages import PayloadRef
from contract.names import FILES
from gateway.batches.create import NewBatch
from gateway.batches.ids import new_batch_id
from gateway.batches.model import BatchSpec, BatchState, BatchStatus, LineProblem
from gateway.batches.store import errors_blob, input_blob, results_blob
from tests.unit.gateway.api_keys import SETTING
from tests.unit.gateway.conftest import RunningGateway, open_gateway, write_catalogue
from tests.unit.gateway.openai_client import client_of

CATALOGUE = """
[talker]
implementation = "worker.models.noop"
description = "Talks."
media_types = ["application/json"]
openai = ["chat.completions", "embeddings"]

[listener]
implementation = "worker.models.noop"
description = "Writes what it hears."
media_types = ["audio/wav"]
openai = ["audio.transcriptions"]
"""
WAV = b"RIFF\0\0\0\0WAVE sound"
CHAT: Any = "/v1/chat/completions"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, CATALOGUE)) as opened:
        yield opened


@pytest.fixture
def client(gateway: RunningGateway) -> AsyncOpenAI:
    return client_of(gateway)


def line(number: int = 1, **others: Any) -> dict[str, Any]:
    body = {"model": "talker", "messages": [{"role": "user", "content": f"{number}"}]}
    return {"custom_id": f"{number}", "method": "POST", "url": CHAT, "body": body, **others}


async def upload(client: AsyncOpenAI, *lines: Any, purpose: Any = "batch") -> str:
    data = "\n".join(json.dumps(each) for each in lines or [line()]).encode()
    return (await client.files.create(file=("a.jsonl", data), purpose=purpose)).id


async def create(client: AsyncOpenAI, *lines: Any, **options: Any) -> Any:
    given = {"endpoint": CHAT, "completion_window": "24h", **options}
    file_id = given.pop("input_file_id", None) or await upload(client, *lines)
    return await client.batches.create(input_file_id=file_id, **given)


def uuid_of(batch: Any) -> str:
    return str(UUID(batch.id.removeprefix("batch_")))


async def put_state(gateway: RunningGateway, batch: Any, **state: Any) -> None:
    times = {f"{each}_at": "2026-03-01T12:00:30.000Z" for each in ("started", "finished")}
    etag = (await gateway.services.batch_store.state(uuid_of(batch)))[1]
    found = BatchState(**{**times, **state})
    await gateway.services.batch_store.write_state(uuid_of(batch), found, etag)


class TestCreate:
    async def test_batch_is_that_of_the_call(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        file_id = await upload(client)
        made = await create(client, input_file_id=file_id, metadata={"set": "7"})
        assert (made.object, made.status, made.model) == ("batch", "validating", "talker")
        assert (made.endpoint, made.input_file_id) == (CHAT, file_id)
        assert made.metadata == {"set": "7"}
        assert made.expires_at == made.created_at + 24 * 3600
        spec = await gateway.services.batch_store.spec(uuid_of(made))
        assert spec
        assert (spec.operation, spec.label) == ("chat.completions", None)
        assert f"batch-{spec.id}" in gateway.durable.runs

    async def test_key_makes_one_batch_of_two_calls(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        file_id, headers = await upload(client), {"Idempotency-Key": "once"}
        made = [
            await create(client, input_file_id=file_id, extra_headers=headers) for _ in range(2)
        ]
        assert made[0] == made[1]
        assert [each.id async for each in client.batches.list()] == [made[0].id]
        spec = await gateway.services.batch_store.spec(uuid_of(made[0]))
        assert (await gateway.services.intake.validate(spec)).segments == [1]  # type: ignore[arg-type]  # there is one

    async def test_other_id_keeps_the_file(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        spec = await gateway.services.batch_store.spec(uuid_of(await create(client)))
        assert spec
        other = new_batch_id(gateway.clock())
        assert NewBatch(spec, None, None, "").with_id(other).spec.blob == spec.blob
        assert NewBatch(spec, [b"{}"], None, "").with_id(other).spec.blob == input_blob(other)

    @pytest.mark.parametrize(("window", "seconds"), [("90m", 5400), ("7d", 604800), ("1s", 1)])
    async def test_window_may_be_another(
        self, client: AsyncOpenAI, window: Any, seconds: int
    ) -> None:
        made = await create(client, completion_window=window)
        assert made.expires_at == made.created_at + seconds

    @pytest.mark.parametrize("first", ["", "{", "[]", '{"body": 7}', '{"body": {"model": 7}}'])
    async def test_unreadable_first_line_names_no_model(
        self, client: AsyncOpenAI, first: str
    ) -> None:
        data = f"{first}\n{json.dumps(line())}".encode()
        file = await client.files.create(file=("a.jsonl", data), purpose="batch")
        made = await create(client, input_file_id=file.id)
        assert made.model == ("talker" if not first else "")

    @pytest.mark.parametrize(
        ("options", "param"),
        [
            ({"endpoint": "/v1/moderations"}, "endpoint"),
            ({"completion_window": "8d"}, "completion_window"),
            ({"completion_window": 24}, "completion_window"),
            ({"input_file_id": "file-1"}, "input_file_id"),
            ({"metadata": {"a": 7}}, "metadata"),
            ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after"),
            ({"output_expires_after": 7}, "output_expires_after"),
            ({"extra_body": {"priority": 7}}, "priority"),
        ],
    )
    async def test_invalid_member_is_named(
        self, client: AsyncOpenAI, options: Any, param: str
    ) -> None:
        with pytest.raises(openai.APIStatusError) as caught:
            await create(client, **options)
        assert (caught.value.param, caught.value.status_code in {400, 422}) == (param, True)

    async def test_file_needs_the_purpose(self, client: AsyncOpenAI) -> None:
        file_id = await upload(client, purpose="user_data")
        with pytest.raises(openai.UnprocessableEntityError, match="purpose batch"):
            await create(client, input_file_id=file_id)

    async def test_batch_of_another_tenant_is_unknown(self, tmp_path: Path) -> None:
        path = write_catalogue(tmp_path, CATALOGUE)
        async with open_gateway(catalogue_path=path, api_keys=SETTING) as closed:
            own, other = client_of(closed, "a"), client_of(closed, "b")
            made = await create(own)
            await put_state(closed, made, status=BatchStatus.SUCCEEDED, results_bytes=1)
            output = (await own.batches.retrieve(made.id)).output_file_id
            for call in (
                other.batches.retrieve(made.id),
                other.batches.cancel(made.id),
                other.files.retrieve(str(output)),
                create(other, input_file_id=made.input_file_id),
            ):
                with pytest.raises(openai.APIStatusError) as caught:
                    await call
                assert caught.value.status_code in {404, 422}
            assert [each.id async for each in other.batches.list()] == []
            assert [each.id async for each in other.files.list()] == []


class TestFileOfLine:
    async def recorded(self, client: AsyncOpenAI, seconds: int = 3600) -> str:
        lifetime: Any = {"anchor": "created_at", "seconds": seconds}
        made = await client.files.create(file=WAV, purpose="user_data", expires_after=lifetime)
        return made.id

    async def begin(
        self, gateway: RunningGateway, client: AsyncOpenAI, file_id: str
    ) -> tuple[BatchSpec, bytes]:
        row = line(body={"model": "listener", "file": file_id}, url="/v1/audio/transcriptions")
        made = await create(client, row, endpoint="/v1/audio/transcriptions")
        spec = await gateway.services.batch_store.spec(uuid_of(made))
        assert spec
        return spec, json.dumps(row).encode()

    async def test_may_expire_while_the_batch_runs(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        spec, row = await self.begin(gateway, client, await self.recorded(client))
        assert (await gateway.services.intake.validate(spec)).problems == []
        gateway.clock.now += timedelta(hours=2)
        job = await gateway.services.intake.prepare(spec, 1, row)
        assert isinstance(job.request.input, PayloadRef)
        assert (job.request.input.media_type, job.request.input.size_bytes) == ("audio/wav", 18)

    async def test_must_be_there_when_it_is_created(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        file_id = await self.recorded(client)
        gateway.clock.now += timedelta(hours=2)
        spec, _ = await self.begin(gateway, client, file_id)
        found = (await gateway.services.intake.validate(spec)).problems
        assert [(each.line, each.code) for each in found] == [(1, "invalid-input")]
        assert "there is no file" in found[0].message


class TestRetrieve:
    @pytest.mark.parametrize(
        ("state", "status", "time"),
        [
            ({"status": "running", "segments": [4], "succeeded": 1}, "in_progress", None),
            ({"status": "running", "segments": [4], "succeeded": 4}, "finalizing", None),
            ({"status": "succeeded", "segments": [4], "succeeded": 4}, "completed", "completed_at"),
            ({"status": "cancelling"}, "cancelling", "cancelling_at"),
            ({"status": "cancelled"}, "cancelled", "cancelled_at"),
            ({"status": "expired"}, "expired", "expired_at"),
            ({"status": "failed"}, "failed", "failed_at"),
        ],
    )
    async def test_status_is_one_of_openai(
        self, gateway: RunningGateway, client: AsyncOpenAI, state: Any, status: str, time: Any
    ) -> None:
        made = await create(client)
        await put_state(gateway, made, **{**state, "status": BatchStatus(state["status"])})
        found = await client.batches.retrieve(made.id)
        assert found.status == status
        assert time is None or getattr(found, time) is not None

    async def test_counts(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await create(client)
        counts = {"succeeded": 3, "failed": 1, "expired": 2, "cancelled": 1}
        await put_state(gateway, made, segments=[5, 5], status=BatchStatus.RUNNING, **counts)
        counts = (await client.batches.retrieve(made.id)).request_counts.model_dump()  # type: ignore[union-attr]  # there are counts
        assert counts == {"total": 10, "completed": 3, "failed": 4}

    async def test_refused_lines_have_numbers(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        made = await create(client)
        found = [LineProblem(7, "invalid-json-line", "not JSON", "x"), LineProblem(0, "a", "b")]
        await put_state(gateway, made, status=BatchStatus.FAILED, problems=found)
        errors = (await client.batches.retrieve(made.id)).errors
        assert errors
        assert errors.data
        assert [(each.line, each.code, each.message) for each in errors.data] == [
            (7, "invalid-json-line", "not JSON"),
            (None, "a", "b"),
        ]

    @pytest.mark.parametrize("batch_id", ["batch_1", "x", "batch_" + "0" * 32])
    async def test_unknown_id(self, client: AsyncOpenAI, batch_id: str) -> None:
        with pytest.raises(openai.NotFoundError, match="there is no batch"):
            await client.batches.retrieve(batch_id)

    async def test_pages_have_all_batches(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        made = []
        for _ in range(5):
            made.append((await create(client)).id)
            gateway.clock.now += timedelta(seconds=1)
        item: Any = {"custom_id": "a", "input": {"json": 1}}
        native = {"model": "talker", "items": [item]}
        assert (await gateway.http.post("/v1/batches", json=native)).status_code == 202
        assert [each.id async for each in client.batches.list(limit=2)] == made[::-1]


class TestCancel:
    async def test_batch_stops(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await create(client)
        assert (await client.batches.cancel(made.id)).status == "cancelling"
        assert await gateway.services.batch_store.is_cancelled(uuid_of(made))
        assert (await client.batches.retrieve(made.id)).status == "cancelling"

    async def test_ended_batch_stays(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await create(client)
        await put_state(gateway, made, status=BatchStatus.SUCCEEDED)
        assert (await client.batches.cancel(made.id)).status == "completed"
        assert not await gateway.services.batch_store.is_cancelled(uuid_of(made))


class TestOutput:
    async def test_grows_and_is_listed(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await create(client)
        assert (made.output_file_id, made.error_file_id) == (None, None)
        await gateway.blobs.append(results_blob(uuid_of(made)), b"one\ntwo\n")
        await put_state(gateway, made, status=BatchStatus.RUNNING, results_bytes=4)
        output = str((await client.batches.retrieve(made.id)).output_file_id)
        assert (await client.files.content(output)).content == b"one\n"
        await gateway.blobs.append(errors_blob(uuid_of(made)), b"three\n")
        await put_state(
            gateway, made, status=BatchStatus.SUCCEEDED, results_bytes=8, errors_bytes=6
        )
        found = await client.batches.retrieve(made.id)
        assert (await client.files.content(output)).content == b"one\ntwo\n"
        assert (await client.files.content(str(found.error_file_id))).content == b"three\n"
        about = await client.files.retrieve(output)
        assert (about.bytes, about.purpose) == (8, "batch_output")
        listed = [each.id async for each in client.files.list(purpose="batch_output")]
        assert listed == [output, found.error_file_id]
        assert len([each async for each in client.files.list(limit=1)]) == 3

    async def test_is_deleted_with_its_batch(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        made = await create(client)
        await put_state(gateway, made, results_bytes=4)
        output = str((await client.batches.retrieve(made.id)).output_file_id)
        with pytest.raises(openai.UnprocessableEntityError, match="deleted with the batch"):
            await client.files.delete(output)

    async def test_batch_of_our_own_api_is_not_shown(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        native = {"model": "talker", "items": [{"custom_id": "a", "input": {"json": 1}}]}
        answer = await gateway.http.post("/v1/batches", json=native)
        batch_id = answer.json()["id"]
        await gateway.services.batch_store.write_state(batch_id, BatchState(results_bytes=1), None)
        own_id = batch_id.replace("-", "")
        for call in (
            client.files.retrieve(f"file-{own_id}-output"),
            client.batches.retrieve(f"batch_{own_id}"),
        ):
            with pytest.raises(openai.NotFoundError):
                await call


class TestUpload:
    async def test_file_in_parts_is_whole(self, client: AsyncOpenAI, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(bytes(range(256)) * 100)
        done = await client.uploads.upload_file_chunked(
            file=path, mime_type="application/jsonl", purpose="batch", part_size=1000
        )
        assert (done.status, done.file is not None) == ("completed", True)
        assert done.file
        assert (await client.files.content(done.file.id)).content == path.read_bytes()
        assert (done.file.filename, done.file.purpose) == ("a.jsonl", "batch")
        again = await client.uploads.complete(done.id, part_ids=["part_" + "0" * 16])
        assert again.file == done.file

    async def begin(self, client: AsyncOpenAI, size_bytes: int = 2, purpose: Any = "batch") -> str:
        made = await client.uploads.create(
            bytes=size_bytes, filename="a", mime_type="x", purpose=purpose
        )
        assert made.status == "pending"
        return made.id

    async def test_parts_are_in_the_given_order(self, client: AsyncOpenAI) -> None:
        upload_id = await self.begin(client)
        first, last = [
            (await client.uploads.parts.create(upload_id, data=data)).id for data in (b"a", b"b")
        ]
        done = await client.uploads.complete(upload_id, part_ids=[last, first])
        assert done.file
        assert (await client.files.content(done.file.id)).content == b"ba"

    @pytest.mark.parametrize("parts", [["part_" + "0" * 16], ["x"], ["same", "same"]])
    async def test_foreign_part_is_refused(self, client: AsyncOpenAI, parts: list[str]) -> None:
        upload_id = await self.begin(client)
        own = (await client.uploads.parts.create(upload_id, data=b"ab")).id
        given = [own if each == "same" else each for each in parts]
        with pytest.raises(openai.UnprocessableEntityError, match="no part of this upload"):
            await client.uploads.complete(upload_id, part_ids=given)

    async def test_other_size_is_refused(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        upload_id = await self.begin(client, 3)
        part = (await client.uploads.parts.create(upload_id, data=b"ab")).id
        with pytest.raises(openai.UnprocessableEntityError, match="have 2 bytes"):
            await client.uploads.complete(upload_id, part_ids=[part])
        left = [name for name in gateway.payloads.blobs if name.startswith(FILES)]
        assert [name.rpartition(".")[2] for name in left] == ["upload"]

    async def test_cancelled_upload_is_gone(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        upload_id = await self.begin(client)
        await client.uploads.parts.create(upload_id, data=b"ab")
        assert (await client.uploads.cancel(upload_id)).status == "cancelled"
        with pytest.raises(openai.NotFoundError):
            await client.uploads.parts.create(upload_id, data=b"ab")
        assert not gateway.payloads.blocks

    async def test_completed_upload_is_not_cancelled(self, client: AsyncOpenAI) -> None:
        upload_id = await self.begin(client)
        part = (await client.uploads.parts.create(upload_id, data=b"ab")).id
        done = await client.uploads.complete(upload_id, part_ids=[part])
        with pytest.raises(openai.UnprocessableEntityError, match="is completed"):
            await client.uploads.cancel(upload_id)
        assert await client.uploads.complete(upload_id, part_ids=[part]) == done

    async def test_late_part_is_refused(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        upload_id = await self.begin(client)
        gateway.clock.now += timedelta(hours=1)
        with pytest.raises(openai.NotFoundError, match="has expired"):
            await client.uploads.parts.create(upload_id, data=b"ab")

    async def test_size_is_limited_by_purpose(self, client: AsyncOpenAI) -> None:
        await self.begin(client, 1024**3)
        for size_bytes, purpose in ((1024**3 + 1, "batch"), (1024**4, "user_data")):
            with pytest.raises(openai.APIStatusError) as caught:
                await self.begin(client, size_bytes, purpose)
            assert caught.value.status_code == 413
