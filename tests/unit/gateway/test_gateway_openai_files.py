"""Test the files of the OpenAI API with the unmodified package `openai`."""

from datetime import timedelta
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from contract.names import FILES
from contract.queues import LONGEST_BATCH_SECONDS
from gateway import housekeeping
from gateway.storage import files
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.openai_client import client_of


@pytest.fixture
def client(gateway: RunningGateway) -> AsyncOpenAI:
    return client_of(gateway)


async def create(client: AsyncOpenAI, name: str = "a.txt", data: bytes = b"words") -> str:
    return (await client.files.create(file=(name, data), purpose="user_data")).id


class TestFile:
    async def test_is_returned_as_it_was_sent(self, client: AsyncOpenAI) -> None:
        data = bytes(range(256)) * 1000
        made = await client.files.create(file=("é 1.bin", data), purpose="vision")
        assert (made.filename, made.purpose, made.bytes) == ("é 1.bin", "vision", len(data))
        assert await client.files.retrieve(made.id) == made
        assert (await client.files.content(made.id)).content == data

    async def test_is_gone_after_its_deletion(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        file_id = await create(client)
        assert (await client.files.delete(file_id)).deleted
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError, match="there is no file"):
                await call(file_id)
        assert not [name for name in gateway.payloads.blobs if name.startswith(FILES)]

    async def test_other_tenant_cannot_see_it(self, closed: RunningGateway) -> None:
        own, other = client_of(closed, "a"), client_of(closed, "b")
        file_id = await create(own)
        assert [each.id async for each in own.files.list()] == [file_id]
        assert [each.id async for each in other.files.list()] == []
        with pytest.raises(openai.NotFoundError):
            await other.files.content(file_id)
        with pytest.raises(openai.NotFoundError):
            await other.files.delete(file_id)
        with pytest.raises(openai.AuthenticationError):
            await client_of(closed).files.list()
        with pytest.raises(openai.PermissionDeniedError):
            await create(client_of(closed, "reader"))

    async def test_retention_deletes_it(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        file_id = await create(client)
        for name in gateway.payloads.blobs:
            gateway.blobs.modified_at[name] = gateway.clock()
        lifetime = timedelta(hours=gateway.services.settings.retention_hours)
        gateway.clock.now += lifetime - timedelta(seconds=1)
        await housekeeping.run(gateway.durable, gateway.services)
        assert (await client.files.content(file_id)).content == b"words"
        gateway.clock.now += timedelta(seconds=2)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file_id)
        gateway.clock.now += timedelta(seconds=LONGEST_BATCH_SECONDS)  # a line may use it so long
        await housekeeping.run(gateway.durable, gateway.services)
        assert not [name for name in gateway.payloads.blobs if name.startswith(FILES)]

    async def test_may_expire_earlier(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await client.files.create(
            file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert made.expires_at == made.created_at + 3600
        gateway.clock.now += timedelta(seconds=3601)
        assert [each.id async for each in client.files.list()] == []

    async def test_content_without_description_is_not_shown(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        file_id = await create(client)
        (about,) = (name for name in gateway.payloads.blobs if name.endswith(".json"))
        del gateway.payloads.blobs[about]  # as if the process died between the two writes
        assert [each.id async for each in client.files.list()] == []
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(file_id)


class TestList:
    async def test_pages_have_all_files_in_order(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        made = []
        for number in range(5):
            made.append(await create(client, f"{number}.txt"))
            gateway.clock.now += timedelta(seconds=1)
        assert [each.id async for each in client.files.list(limit=2)] == made[::-1]
        assert [each.id async for each in client.files.list(limit=2, order="asc")] == made
        page = await client.files.list(after=made[3], limit=10_000)
        assert ([each.id for each in page.data], page.has_more) == (made[2::-1], False)

    async def test_purpose_selects_files(self, client: AsyncOpenAI) -> None:
        await create(client)
        other = await client.files.create(file=b"x", purpose="batch")
        assert [each.id async for each in client.files.list(purpose="batch", limit=1)] == [other.id]


class TestRefusal:
    async def test_too_many_files(
        self, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "MAX_FILES", 2)
        for _ in range(2):
            await create(client)
        with pytest.raises(openai.UnprocessableEntityError, match="2 files, the most"):
            await create(client)

    async def test_too_large_file(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        most = max(m.max_all_inputs_bytes for m in gateway.services.catalogue.values())
        with pytest.raises(openai.APIStatusError, match="bytes, the most that") as caught:
            await create(client, data=bytes(most + 100_000))
        assert (caught.value.status_code, caught.value.code) == (413, "payload-too-large")

    async def test_error_names_the_member(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await client.files.create(file=b"x", purpose="fun")  # type: ignore[arg-type]  # wrong
        assert (caught.value.param, caught.value.type) == ("purpose", "invalid_request_error")

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "order=up", "page=2"])
    async def test_invalid_query(self, gateway: RunningGateway, query: str) -> None:
        answer = await gateway.http.get(f"/openai/v1/files?{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed-request")

    @pytest.mark.parametrize(
        ("form", "text"),
        [
            ({"json": {}}, "the body must be a form"),
            ({"files": {"other": b"x"}, "data": {"purpose": "batch"}}, "file: expected a file"),
            ({"files": {"file": b"x"}, "data": {"purpose": "batch", "n": "1"}}, "unknown part 'n'"),
            (
                {"files": {"file": b"x"}, "data": {"purpose": ["batch", "x"]}},
                "purpose: it is given",
            ),
            ({"files": {"file": b"x", "purpose": b"batch"}}, "purpose: expected text"),
        ],
    )
    async def test_invalid_form(self, gateway: RunningGateway, form: Any, text: str) -> None:
        answer = await gateway.http.post("/openai/v1/files", **form)
        assert answer.status_code == 400
        assert text in answer.json()["error"]["message"]
