"""Test the lines of batches of the OpenAI API: their jobs, and the lines of the output."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from openai.types import CreateEmbeddingResponse, ImagesResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from contract.catalogue import Catalogue, Priority
from contract.messages import InlineBytes, payload_to_json
from gateway.batches.ids import line_id, new_batch_id
from gateway.batches.model import BatchSpec
from gateway.batches.openai_lines import OpenAiLines, operation_at
from gateway.openai.operations import OPERATIONS
from gateway.problems import HttpProblem
from tests.unit.gateway.conftest import write_catalogue
from tests.unit.gateway.memory import MemoryPayloads

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODEL = """
[{name}]
implementation = "worker.models.noop"
description = "Does something."
media_types = ["application/json", "image/png", "audio/wav"]
result_media_type = "{made}"
openai = {operations}
[{name}.inputs.mask]
media_types = ["image/png"]
optional = true
"""
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg"
    "=="
)
PNG_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def payloads() -> MemoryPayloads:
    return MemoryPayloads()


@pytest.fixture
def lines(tmp_path: Path, payloads: MemoryPayloads) -> OpenAiLines:
    made = {"painter": "image/png", "speaker": "audio/wav"}
    entries = [
        MODEL.format(
            name=name, made=made.get(name, "application/json"), operations=json.dumps([*OPERATIONS])
        )
        for name in ("all", "painter", "speaker")
    ]
    return OpenAiLines(Catalogue.load(write_catalogue(tmp_path, *entries)), payloads)


def spec_of(operation: str = "chat.completions", model: str = "all") -> BatchSpec:
    endpoint = "/v1" + OPERATIONS[operation].path
    times = "2026-03-01T12:00:00.000Z", "2026-03-02T12:00:00.000Z"
    batch_id = new_batch_id(NOW)
    extra = {"endpoint": endpoint}
    return BatchSpec(batch_id, "t", model, *times, "b", operation=operation, extra=extra)


def line_of(spec: BatchSpec, body: Any, **others: Any) -> dict[str, Any]:
    body = {"model": spec.model, **body} if isinstance(body, dict) else body
    url = spec.extra["endpoint"]
    return {"custom_id": "a", "method": "POST", "url": url, "body": body, **others}


def record_of(spec: BatchSpec, **others: Any) -> dict[str, Any]:
    return {
        "model": spec.model,
        "status": "succeeded",
        "created_at": "2026-03-01T12:00:00.000Z",
        "started_at": None,
        "finished_at": "2026-03-01T12:01:00.000Z",
        "deadline": spec.deadline,
        "attempt": 1,
        "result": None,
        "error": None,
        "timing": None,
        "trace_id": None,
        **others,
    }


class TestParse:
    @pytest.mark.parametrize("url", ["/v1/chat/completions", "/openai/v1/chat/completions"])
    def test_body_is_the_input(self, lines: OpenAiLines, url: str) -> None:
        body = {**CHAT, "metadata": {"user": "7"}, "temperature": 0.5}
        spec = spec_of()
        job = lines.parse(spec, line_of(spec, body, url=url))
        assert json.loads(job.inputs[None].data) == {"model": "all", **body}
        assert (job.operation, job.priority, job.tenant) == ("chat.completions", Priority.LOW, "t")
        assert job.metadata == {"user": "7"}

    @pytest.mark.parametrize("operation", [*OPERATIONS])
    def test_each_endpoint_has_an_operation(self, operation: str) -> None:
        assert operation_at("/v1" + OPERATIONS[operation].path) == operation

    @pytest.mark.parametrize("url", ["/v1/nothing", "/chat/completions", None, 7, "/v1"])
    def test_other_path_has_none(self, url: Any) -> None:
        assert operation_at(url) is None

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"method": "GET"}, "method: expected POST"),
            ({"url": "/v1/embeddings"}, "url: expected the endpoint of the batch"),
            ({"body": []}, "body: expected a JSON object"),
            ({"extra": 1}, "extra: unknown member of the line"),
            ({"body": {"model": "all"}}, "messages: it is missing"),
            ({"body": {"model": "other", **CHAT}}, "model: expected all"),
            ({"body": CHAT}, "model: expected all"),
            ({"body": {"model": "all", "stream": True, **CHAT}}, "stream: the lines of a batch"),
            ({"body": {"model": "all", "metadata": [], **CHAT}}, "metadata: expected"),
        ],
    )
    def test_wrong_line_is_refused(self, lines: OpenAiLines, change: Any, text: str) -> None:
        spec = spec_of()
        with pytest.raises(HttpProblem, match=text):
            lines.parse(spec, {**line_of(spec, CHAT), **change})

    def test_unknown_model_is_named(self, lines: OpenAiLines) -> None:
        spec = spec_of(model="gpt-6")
        with pytest.raises(HttpProblem, match="gpt-6") as caught:
            lines.parse(spec, line_of(spec, CHAT))
        assert caught.value.kind.code == "unknown-model"

    @pytest.mark.parametrize("image", [PNG_URI, [PNG_URI], {"image_url": PNG_URI}])
    def test_edit_has_pictures_and_parameters(self, lines: OpenAiLines, image: Any) -> None:
        spec = spec_of("images.edits")
        body = {"image": image, "mask": "file-1", "prompt": "red", "n": 1}
        job = lines.parse(spec, line_of(spec, body))
        assert (job.inputs[None].media_type, job.inputs[None].data) == ("image/png", PNG)
        assert job.inputs["mask"].file == "file-1"
        assert job.parameters == {"prompt": "red", "n": 1}

    def test_transcription_has_a_file_or_url(self, lines: OpenAiLines) -> None:
        spec = spec_of("audio.transcriptions")
        by_id = lines.parse(spec, line_of(spec, {"file": "file-1", "response_format": "json"}))
        assert (by_id.inputs[None].file, by_id.parameters) == ("file-1", {})
        by_url = lines.parse(spec, line_of(spec, {"file": "https://a.test/x.wav"}))
        assert by_url.inputs[None].url is not None

    @pytest.mark.parametrize("file", [None, 7, [], "a" * 200, {"id": "x"}, ["a", "b"], "data:x"])
    def test_other_file_is_refused(self, lines: OpenAiLines, file: Any) -> None:
        spec = spec_of("audio.transcriptions")
        with pytest.raises(HttpProblem, match="file"):
            lines.parse(spec, line_of(spec, {"file": file}))


class TestResult:
    async def shown(
        self, lines: OpenAiLines, operation: str, body: Any, result: Any, model: str = "all"
    ) -> Any:
        spec = spec_of(operation, model)
        line, job_id = line_of(spec, body), line_id(spec.id, 3)
        found: Any = await lines.result_line(spec, line, job_id, record_of(spec, result=result))
        assert (found["custom_id"], found["error"]) == ("a", None)
        assert found["id"] == "batch_req_" + job_id.replace("-", "")
        assert found["response"]["request_id"] == job_id
        return found["response"]

    async def test_text_is_a_chat(self, lines: OpenAiLines) -> None:
        response = await self.shown(lines, "chat.completions", CHAT, {"json": "hi"})
        chat = ChatCompletion.model_validate(response["body"], strict=True)
        assert (response["status_code"], chat.choices[0].message.content) == (200, "hi")

    async def test_object_of_an_engine_passes(self, lines: OpenAiLines) -> None:
        whole = {"object": "chat.completion", "more": 1}
        response = await self.shown(lines, "chat.completions", CHAT, {"json": whole})
        assert response["body"] == whole

    async def test_text_is_a_response(self, lines: OpenAiLines) -> None:
        response = await self.shown(lines, "responses", {"input": "x"}, {"json": "hi"})
        assert Response.model_validate(response["body"]).output_text == "hi"

    async def test_vectors_have_the_wanted_form(self, lines: OpenAiLines) -> None:
        body = {"input": ["x"], "encoding_format": "base64"}
        response = await self.shown(lines, "embeddings", body, {"json": [1, 2]})
        found = CreateEmbeddingResponse.model_validate(response["body"] | {"data": []})
        assert (found.model, response["body"]["data"][0]["embedding"]) == ("all", "AACAPwAAAEA=")

    async def test_picture_is_in_the_line(self, lines: OpenAiLines) -> None:
        result = payload_to_json(InlineBytes("image/png", PNG))
        body = {"prompt": "red"}
        response = await self.shown(lines, "images.generations", body, result, "painter")
        found = ImagesResponse.model_validate(response["body"], strict=True)
        assert found.data
        assert base64.b64decode(found.data[0].b64_json or "") == PNG

    async def test_speech_is_a_link(self, lines: OpenAiLines) -> None:
        result = payload_to_json(InlineBytes("audio/wav", b"RIFF"))
        response = await self.shown(lines, "audio.speech", {"input": "x"}, result, "speaker")
        path = f"/v1/jobs/{response['request_id']}/result"
        assert response["body"] == {"result_link": path, "media_type": "audio/wav"}

    async def test_stored_result_is_read(
        self, lines: OpenAiLines, payloads: MemoryPayloads
    ) -> None:
        ref = await payloads.put("results/a", b'"hello"', "application/json")
        response = await self.shown(lines, "chat.completions", CHAT, payload_to_json(ref))
        assert response["body"]["choices"][0]["message"]["content"] == "hello"

    @pytest.mark.parametrize(
        "result",
        [{"json": 7}, {"media_type": "application/json", "base64": "e30g"}, {"json": {"text": 7}}],
    )
    async def test_useless_result_is_an_error(self, lines: OpenAiLines, result: Any) -> None:
        response = await self.shown(lines, "chat.completions", CHAT, result)
        assert response["status_code"] == 500
        assert response["body"]["error"]["code"] == "inference-failed"

    @pytest.mark.parametrize("data", [b"{", b'{"a": 1}'])
    async def test_corrupt_result_is_an_error(
        self, lines: OpenAiLines, payloads: MemoryPayloads, data: bytes
    ) -> None:
        ref = payload_to_json(await payloads.put("results/a", b"{", "application/json"))
        await payloads.put("results/a", data, "application/json")
        response = await self.shown(lines, "chat.completions", CHAT, ref)
        assert (response["status_code"], response["body"]["error"]["type"]) == (500, "server_error")


class TestError:
    @pytest.mark.parametrize("status", ["expired", "cancelled"])
    def test_job_that_did_not_run(self, lines: OpenAiLines, status: str) -> None:
        spec = spec_of()
        record = record_of(spec, status=status)
        found: Any = lines.error_line(spec, line_of(spec, CHAT), line_id(spec.id, 1), record)
        assert (found["response"], found["error"]["code"]) == (None, f"batch_{status}")

    def test_failed_job_has_its_reason(self, lines: OpenAiLines) -> None:
        error = {"code": "invalid-input", "message": "too long", "stage": "run", "retryable": False}
        spec = spec_of()
        record = record_of(spec, status="failed", error=error)
        found: Any = lines.error_line(spec, line_of(spec, CHAT), line_id(spec.id, 1), record)
        assert (found["error"], found["response"]["status_code"]) == (None, 422)
        assert found["response"]["body"]["error"]["message"] == "too long"
