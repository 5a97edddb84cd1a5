"""Test responses of the OpenAI API in memory, with the unmodified package `openai`."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from contract.messages import InlineJson
from contract.streams import StreamEvent
from tests.unit.gateway.api_keys import SETTING
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway, write_catalogue
from tests.unit.gateway.openai_client import answered, client_of, log_of

CATALOGUE = """
[talker]
implementation = "worker.models.noop"
description = "Talks."
media_types = ["application/json"]
openai = ["responses"]
"""
TEXT: Any = {"result": {"media_type": "text/plain", "base64": "aGVsbG8="}}
ENGINE = {
    "id": "resp_engine",
    "object": "response",
    "created_at": 1.5,
    "status": "completed",
    "model": "talker",
    "output": [],
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "tools": [],
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    path = write_catalogue(tmp_path, CATALOGUE)
    async with open_gateway(catalogue_path=path) as opened:
        yield opened


@pytest.fixture
def client(gateway: RunningGateway) -> AsyncOpenAI:
    return client_of(gateway)


async def streamed(client: AsyncOpenAI, **asked: Any) -> list[Any]:
    """Return the events of a new response."""
    stream: Any = await client.responses.create(
        model="talker", input="hi", stream=True, background=True, **asked
    )
    return [event async for event in stream]


async def resumed(client: AsyncOpenAI, response_id: str, after: int) -> list[Any]:
    stream = await client.responses.retrieve(response_id, stream=True, starting_after=after)
    return [event async for event in stream]


def engine_events() -> list[StreamEvent]:
    """Return the log of an engine, which numbers its events and names its response itself."""
    delta = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    kinds: list[dict[str, Any]] = [
        {"type": "response.created", "response": ENGINE},
        {"type": "response.in_progress", "response": {**ENGINE, "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": "hello", **delta},
        {"type": "response.completed", "response": ENGINE},
    ]
    return log_of(*({**each, "sequence_number": 7 + n} for n, each in enumerate(kinds)))


class TestResponse:
    async def test_text_is_the_output(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        found = await answered(gateway, client.responses.create(model="talker", input="hi"), **TEXT)
        assert (found.status, found.output_text) == ("completed", "hello")
        assert found.id == f"resp_{gateway.queues.request().job_id.replace('-', '')}"
        assert await client.responses.retrieve(found.id) == found

    async def test_engine_keeps_all_but_the_id(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.responses.with_raw_response.create(model="talker", input="hi")
        answer = await answered(gateway, call, result={"json": ENGINE})
        job_id = gateway.queues.request().job_id
        assert json.loads(answer.text) == {**ENGINE, "id": f"resp_{job_id.replace('-', '')}"}

    async def test_background_is_retrieved_later(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        made = await client.responses.create(model="talker", input="hi", background=True)
        assert made.status == "queued"
        request = gateway.queues.request()
        assert isinstance(request.input, InlineJson)
        assert request.input.value == {"model": "talker", "input": "hi"}
        assert (await client.responses.retrieve(made.id)).status == "queued"
        await gateway.reply(request, **TEXT)
        assert (await client.responses.retrieve(made.id)).output_text == "hello"

    async def test_cancel_ends_it(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await client.responses.create(model="talker", input="hi", background=True)
        assert (await client.responses.cancel(made.id)).status == "cancelled"
        job = await gateway.job(gateway.queues.request().job_id)
        assert job["status"] == "cancelled"
        assert (await client.responses.cancel(made.id)).status == "cancelled"

    async def test_failure_is_shown(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        made = await client.responses.create(model="talker", input="hi", background=True)
        await gateway.reply(error=error_body("inference-failed"))
        found = await client.responses.retrieve(made.id)
        assert found.status == "failed"
        assert found.error
        assert (found.error.code, found.error.message) == ("server_error", "it did not work")

    async def test_earlier_response_is_refused(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="keeps no conversations") as caught:
            await client.responses.create(model="talker", input="x", previous_response_id="resp_1")
        assert caught.value.param == "previous_response_id"

    async def test_other_job_is_no_response(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        job_id = await gateway.accept()
        for unknown in (f"resp_{job_id.replace('-', '')}", "resp_1", f"resp_{'0' * 32}"):
            with pytest.raises(openai.NotFoundError, match="there is no response"):
                await client.responses.retrieve(unknown)
            with pytest.raises(openai.NotFoundError):
                await client.responses.cancel(unknown)

    async def test_other_tenant_cannot_see_it(self, tmp_path: Path) -> None:
        path = write_catalogue(tmp_path, CATALOGUE)
        async with open_gateway(catalogue_path=path, api_keys=SETTING) as closed:
            own, other = client_of(closed, "a"), client_of(closed, "b")
            made = await own.responses.create(model="talker", input="hi", background=True)
            assert (await own.responses.retrieve(made.id)).status == "queued"
            for call in (other.responses.retrieve, other.responses.cancel):
                with pytest.raises(openai.NotFoundError):
                    await call(made.id)


class TestMetadata:
    async def test_pair_or_its_beginning_finds_jobs(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        given: list[dict[str, str]] = [{"user": "7", "run": "a=b"}, {"user": "71"}, {}]
        for metadata in given:
            made = await client.responses.create(
                model="talker", input="hi", background=True, metadata=metadata
            )
            assert (await client.responses.retrieve(made.id)).metadata == metadata
        ids = [gateway.queues.request(number).job_id for number in range(3)]
        for pair, expected in {
            "user=7": ids[:1],
            "run=a=b": ids[:1],
            "user=7*": ids[1::-1],
            "user=": [],
        }.items():
            page = await gateway.get("/v1/jobs", metadata=pair)
            assert [job["id"] for job in page["jobs"]] == expected, pair
        assert (await gateway.job(ids[0]))["metadata"] == given[0]
        assert "metadata" not in await gateway.job(ids[2])

    @pytest.mark.parametrize(
        "metadata",
        [
            {str(n): "" for n in range(17)},
            {"n" * 65: ""},
            {"n": "v" * 513},
            {"n": 1},
            {"n": "\ud800"},
            "user=7",
        ],
    )
    async def test_limits(self, gateway: RunningGateway, metadata: Any) -> None:
        body = json.dumps({"model": "talker", "input": "hi", "metadata": metadata})
        answer = await gateway.http.post("/openai/v1/responses", content=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "metadata")
        assert gateway.queues.sent == []

    async def test_search_without_a_pair_is_refused(self, gateway: RunningGateway) -> None:
        assert (await gateway.http.get("/v1/jobs?metadata=user")).status_code == 400

    async def test_background_stays(self, client: AsyncOpenAI) -> None:
        made = await client.responses.create(model="talker", input="hi", background=True)
        assert (made.background, (await client.responses.retrieve(made.id)).background) == (
            True,
            True,
        )


class TestStream:
    async def test_text_has_the_events_of_the_api(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = await answered(gateway, streamed(client), log_of("hel", "lo"), **TEXT)
        assert [event.type.removeprefix("response.") for event in events] == [
            *("created", "in_progress", "output_item.added", "content_part.added"),
            *("output_text.delta", "output_text.delta", "output_text.done"),
            *("content_part.done", "output_item.done", "completed"),
        ]
        assert [event.sequence_number for event in events] == list(range(10))
        assert events[-1].response.output_text == "hello"

    async def test_result_without_chunks_is_one(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = await answered(gateway, streamed(client), log_of(), **TEXT)
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert deltas == ["hello"]

    async def test_events_of_an_engine_get_our_id_and_numbers(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        events = await answered(gateway, streamed(client), engine_events(), result={"json": ENGINE})
        assert [event.type.removeprefix("response.") for event in events] == [
            *("created", "in_progress", "output_text.delta", "completed"),
        ]
        assert [event.sequence_number for event in events] == [0, 1, 2, 3]
        ids = {event.response.id for event in events if hasattr(event, "response")}
        assert ids == {f"resp_{gateway.queues.request().job_id.replace('-', '')}"}

    @pytest.mark.parametrize("is_engine", [False, True])
    async def test_resumes_after_any_event(
        self, gateway: RunningGateway, client: AsyncOpenAI, *, is_engine: bool
    ) -> None:
        log = engine_events() if is_engine else log_of("hel", "lo")
        outcome: Any = {"result": {"json": ENGINE}} if is_engine else TEXT
        events = await answered(gateway, streamed(client), log, **outcome)
        response_id = events[0].response.id
        for after in range(len(events)):
            assert await resumed(client, response_id, after) == events[after + 1 :]

    async def test_failed_job_is_a_failed_response(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        failure = error_body("inference-failed")
        events = await answered(gateway, streamed(client), log_of("he"), error=failure)
        assert events[-1].type == "response.failed"
        assert events[-1].response.error.message == "it did not work"

    async def test_new_attempt_after_chunks_is_an_error(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        log = [*log_of("he"), *log_of("hello", attempt=2)]
        events = await answered(gateway, streamed(client), log, **TEXT)
        assert events[-1].type == "error"
        assert "the job runs again" in events[-1].message
        response_id = events[0].response.id
        assert (await client.responses.retrieve(response_id)).output_text == "hello"

    async def test_stream_after_a_new_attempt_has_only_this(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        log = [*log_of("he"), *log_of("hel", "lo", attempt=2)]
        events = await answered(gateway, streamed(client), log, **TEXT)
        response_id = events[0].response.id
        again = await resumed(client, response_id, 0)
        deltas = [event.delta for event in again if event.type == "response.output_text.delta"]
        assert deltas == ["hel", "lo"]
        assert again[0].sequence_number > max(event.sequence_number for event in events)
        for place, event in enumerate(again):
            assert await resumed(client, response_id, event.sequence_number) == again[place + 1 :]
        with pytest.raises(openai.BadRequestError, match="the model runs again"):
            await resumed(client, response_id, events[-1].sequence_number)

    @pytest.mark.parametrize("query", ["starting_after=x", "starting_after=-2", "more=1"])
    async def test_invalid_query_is_refused(
        self, gateway: RunningGateway, client: AsyncOpenAI, query: str
    ) -> None:
        made = await client.responses.create(model="talker", input="hi", background=True)
        path = f"/openai/v1/responses/{made.id}?stream=true&{query}"
        assert (await gateway.http.get(path)).status_code == 400
