"""Test embeddings, images and audio of the OpenAI API with the unmodified package `openai`."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from contract.messages import InlineBytes, InlineJson
from gateway.http.openai import calls
from tests.unit.gateway.conftest import (
    RunningGateway,
    error_body,
    open_gateway,
    write_catalogue,
)
from tests.unit.gateway.openai_client import answered, client_of

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 2, 2) + bytes(9)
WAV = b"RIFF\0\0\0\0WAVE sound"
CATALOGUE = """
[embedder]
implementation = "worker.models.noop"
description = "Makes vectors."
media_types = ["application/json"]
openai = ["embeddings"]

[painter]
implementation = "worker.models.noop"
description = "Makes pictures."
media_types = ["application/json", "image/png"]
result_media_type = "image/png"
openai = ["images.generations", "images.edits"]
[painter.inputs.mask]
media_types = ["image/png"]
optional = true

[artist]
implementation = "worker.models.noop"
description = "Makes several pictures."
media_types = ["application/json"]
openai = ["images.generations"]

[listener]
implementation = "worker.models.noop"
description = "Writes what it hears."
media_types = ["audio/wav"]
openai = ["audio.transcriptions"]

[typist]
implementation = "worker.models.noop"
description = "Writes only text."
media_types = ["audio/wav"]
result_media_type = "text/plain"
openai = ["audio.transcriptions"]

[speaker]
implementation = "worker.models.noop"
description = "Reads aloud."
media_types = ["application/json"]
result_media_type = "audio/wav"
openai = ["audio.speech"]
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with open_gateway(catalogue_path=write_catalogue(tmp_path, CATALOGUE)) as opened:
        yield opened


@pytest.fixture
def client(gateway: RunningGateway) -> AsyncOpenAI:
    return client_of(gateway)


def result(value: Any) -> dict[str, Any]:
    return {"json": value}


def content(media_type: str, data: bytes) -> dict[str, Any]:
    return {"media_type": media_type, "base64": base64.b64encode(data).decode()}


class TestEmbeddings:
    @pytest.mark.parametrize("encoding", ["float", "base64"])
    async def test_vectors_are_returned(self, gateway: RunningGateway, encoding: Any) -> None:
        # The client's types do not describe base64.
        client = client_of(gateway, is_strict=encoding == "float")
        call = client.embeddings.create(
            model="embedder", input=["a", "b"], encoding_format=encoding
        )
        found = await answered(gateway, call, result=result([[0.5, -1], [2, 0]]))
        request = gateway.queues.request()
        assert request.operation == "embeddings"
        assert isinstance(request.input, InlineJson)
        assert request.input.value == {
            "model": "embedder",
            "input": ["a", "b"],
            "encoding_format": encoding,
        }
        vectors: list[Any] = [each.embedding for each in found.data]
        if encoding == "base64":
            assert base64.b64decode(vectors[0]) == b"\0\0\0\x3f\0\0\x80\xbf"
        else:
            assert vectors == [[0.5, -1], [2, 0]]
        assert [each.index for each in found.data] == [0, 1]

    async def test_client_decodes_its_default(self, gateway: RunningGateway) -> None:
        call = client_of(gateway, is_strict=False).embeddings.create(model="embedder", input="a")
        outcome = {"embeddings": [0.5, 0.25], "prompt_tokens": 3}
        found = await answered(gateway, call, result=result(outcome))
        assert (found.data[0].embedding, found.usage.total_tokens) == ([0.5, 0.25], 3)

    async def test_object_of_an_engine_passes(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        whole = {"object": "list", "data": [], "model": "x", "usage": usage, "more": 1}
        call = client.embeddings.with_raw_response.create(model="embedder", input="a")
        answer = await answered(gateway, call, result=result(whole))
        assert json.loads(answer.text) == whole
        assert answer.headers["x-loosely-job"] == gateway.queues.request().job_id

    async def test_dimensions_are_refused_by_name(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.embeddings.create(model="embedder", input="a", dimensions=2)
        with pytest.raises(openai.BadRequestError, match="returns 3 numbers") as caught:
            await answered(gateway, call, result=result([1, 2, 3]))
        assert caught.value.param == "dimensions"

    async def test_other_result_is_an_error(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        for wrong in ({"n": 1}, [], "text", [["a"]], None):
            call = client.embeddings.create(model="embedder", input="a")
            with pytest.raises(openai.InternalServerError, match="returned no vectors"):
                await answered(gateway, call, result=result(wrong))


class TestImages:
    async def test_picture_is_wrapped(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        call = client.images.generate(model="painter", prompt="a cat", size="256x256")
        found = await answered(gateway, call, result=content("image/png", PNG))
        assert found.data
        assert base64.b64decode(found.data[0].b64_json or "") == PNG

    async def test_url_has_the_picture(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        call = client.images.generate(model="painter", prompt="a cat", response_format="url")
        found = await answered(gateway, call, result=content("image/png", PNG))
        assert found.data
        assert found.data[0].url == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"

    async def test_list_of_pictures(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        call = client.images.generate(model="artist", prompt="cats", n=2)
        found = await answered(gateway, call, result=result(["AAAA", "BBBB"]))
        assert [each.b64_json for each in found.data or ()] == ["AAAA", "BBBB"]

    async def test_edit_has_picture_mask_and_prompt(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.images.edit(
            model="painter", image=("a.png", PNG), mask=("m.png", PNG + b"m"), prompt="red", n=1
        )
        found = await answered(gateway, call, result=content("image/png", PNG))
        assert found.data
        request = gateway.queues.request()
        assert request.input == InlineBytes("image/png", PNG)
        assert request.inputs == {"mask": InlineBytes("image/png", PNG + b"m")}
        assert (request.operation, request.parameters) == (
            "images.edits",
            {"prompt": "red", "n": 1},
        )

    async def test_model_refuses_by_name(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="one image") as several:
            await client.images.generate(model="painter", prompt="cats", n=2)
        assert several.value.param == "n"
        with pytest.raises(openai.UnprocessableEntityError, match="no such input"):
            await client.images.edit(model="painter", image=[PNG, PNG], prompt="cats")
        with pytest.raises(openai.BadRequestError, match=r"does not offer images\.edits"):
            await client.images.edit(model="artist", image=PNG, prompt="cats")

    async def test_list_as_number_is_refused(self, gateway: RunningGateway) -> None:
        asked = {"model": "painter", "prompt": "cats", "n": [2]}
        answer = await gateway.http.post("/openai/v1/images/generations", json=asked)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


class TestAudio:
    async def test_text_is_a_transcription(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.audio.transcriptions.create(
            model="typist", file=("a.wav", WAV), language="en", temperature=0.5
        )
        found = await answered(gateway, call, result=content("text/plain", "Möhre".encode()))
        assert found.text == "Möhre"
        request = gateway.queues.request()
        assert request.input == InlineBytes("audio/wav", WAV)
        assert request.parameters == {"language": "en", "temperature": 0.5}

    async def test_text_may_be_the_whole_answer(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.audio.transcriptions.create(
            model="listener", file=("a.wav", WAV), response_format="text"
        )
        assert await answered(gateway, call, result=result({"text": "hello"})) == "hello"

    async def test_verbose_json_has_segments(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        call = client.audio.transcriptions.create(
            model="listener",
            file=("a.wav", WAV),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        words = [{"word": "hi", "start": 0.0, "end": 0.5}]
        whole = {"text": "hi", "language": "en", "duration": 1.5, "words": words}
        found = await answered(gateway, call, result=result(whole))
        assert found.words
        assert (found.duration, found.words[0].word) == (1.5, "hi")
        assert gateway.queues.request().parameters == {
            "response_format": "verbose_json",
            "timestamp_granularities": ["word", "segment"],
        }

    async def test_model_refuses_by_name(self, client: AsyncOpenAI) -> None:
        transcribe = client.audio.transcriptions.create
        for format_ in ("srt", "verbose_json"):
            with pytest.raises(openai.BadRequestError, match="response_format") as caught:
                await transcribe(model="typist", file=WAV, response_format=format_)
            assert caught.value.param == "response_format"
        with pytest.raises(openai.BadRequestError, match="stream: "):
            await transcribe(model="listener", file=WAV, stream=True)
        with pytest.raises(openai.APIStatusError, match="media type"):
            await transcribe(model="listener", file=("a.png", PNG))

    async def test_speech_is_returned(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        call = client.audio.speech.create(model="speaker", input="hello", voice="alloy")
        found = await answered(gateway, call, result=content("audio/wav", WAV))
        assert (found.content, found.response.headers["content-type"]) == (WAV, "audio/wav")

    async def test_speech_in_another_format_is_refused(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="returns only audio/wav") as caught:
            await client.audio.speech.create(
                model="speaker", input="hello", voice="alloy", response_format="mp3"
            )
        assert caught.value.param == "response_format"


class TestCall:
    async def test_failed_job_is_named(self, gateway: RunningGateway, client: AsyncOpenAI) -> None:
        call = client.embeddings.create(model="embedder", input="a")
        with pytest.raises(openai.InternalServerError, match="it did not work") as caught:
            await answered(gateway, call, error=error_body("inference-failed"))
        job_id = gateway.queues.request().job_id
        assert job_id in str(caught.value)
        assert caught.value.response.headers["x-loosely-job"] == job_id
        assert caught.value.response.headers["x-should-retry"] == "false"

    async def test_slow_job_is_named_and_goes_on(
        self, gateway: RunningGateway, client: AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(calls, "MAX_WAIT_SECONDS", 0)
        with pytest.raises(openai.InternalServerError, match="background") as caught:
            await client.embeddings.create(model="embedder", input="a")
        job_id = gateway.queues.request().job_id
        assert (caught.value.status_code, job_id in str(caught.value)) == (504, True)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert (await gateway.job(job_id))["status"] == "queued"

    async def test_unknown_model_is_not_found(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match="did you mean embedder") as caught:
            await client.embeddings.create(model="embeder", input="a")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    async def test_model_without_operation_refuses(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="does not offer embeddings"):
            await client.embeddings.create(model="noop", input="a")

    async def test_key_makes_one_job_of_two_calls(
        self, gateway: RunningGateway, client: AsyncOpenAI
    ) -> None:
        headers = {"Idempotency-Key": "once"}
        create = client.embeddings.create
        calls = [
            create(model="embedder", input="a", encoding_format="float", extra_headers=headers)
            for _ in range(2)
        ]
        first = await answered(gateway, calls[0], result=result([1, 2]))
        assert await calls[1] == first
        assert len(gateway.queues.sent) == 1

    @pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "again"}])
    async def test_hang_up_cancels_unless_it_may_be_repeated(
        self, gateway: RunningGateway, headers: dict[str, str]
    ) -> None:
        body = json.dumps({"model": "embedder", "input": "a"}).encode()
        gone = asyncio.Event()
        pieces = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pieces:
                return pieces.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert message.get("status", 499) == 499

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/openai/v1/embeddings",
            "raw_path": b"/openai/v1/embeddings",
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "durable": gateway.durable,
        }
        call = asyncio.ensure_future(gateway.app(scope, receive, send))
        await gateway.queues.wait_for(1)
        gone.set()
        await call
        job = await gateway.job(gateway.queues.request().job_id)
        assert job["status"] == ("queued" if headers else "cancelled")
