"""Serve a model through an engine: any server with OpenAI's HTTP API, such as vLLM.

    [chat]
    implementation = "worker.models.engine"
    description = "Answers questions."
    media_types = ["application/json", "text/plain"]
    reports_progress = true
    max_concurrent_jobs = 64
    memory_bytes = 20_000_000_000
    openai = ["chat.completions", "responses"]
    options = { command = "vllm serve Qwen/Qwen3-8B --host 127.0.0.1 --port {port}" }

The worker starts the command, waits until it is healthy, and sends each job as one request. A job's
input is the JSON body of the request. A plain text is a chat with one message of the user, whose
result is the text of the answer. If the engine dies, its jobs run again on a new one.

docs/how-to/language-models.md describes the options.
"""

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import httpx

from worker.errors import EngineLost, InferenceFailed, InvalidInput
from worker.inference.engine_answers import Answer, EventReader, assemble, text_of
from worker.memory.device import driver_version
from worker.models import Context, Loading
from worker.processes.engine_server import EngineServer

if driver_version():
    # The worker finds the GPU, whose memory the engine uses, only if a model imports torch.
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

_log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_CONNECT_SECONDS: Final = 10.0
_END_SECONDS: Final = 1.0
_MAX_TEXT_CHARACTERS: Final = 500

_PATHS: Final = {
    "chat.completions": "chat/completions",
    "completions": "completions",
    "responses": "responses",
    "embeddings": "embeddings",
    "images.generations": "images/generations",
    "images.edits": "images/edits",
    "audio.transcriptions": "audio/transcriptions",
    "audio.speech": "audio/speech",
}
_STREAMED: Final = frozenset({"chat.completions", "completions", "responses"})
# The operations whose requests are forms: the name of the field with the file.
_FORMS: Final = {"audio.transcriptions": "file", "images.edits": "image"}


class Infer:
    """Runs each job as one request to the engine, many at the same time.

    Args:
        command: The command that starts the engine. `{port}` in it is the port for `--port`.
        health: The path that answers 200 when the engine is ready.
        start_seconds: How long the engine may take until it is ready.
        model: The name of the model in the engine; by default the first one of `/v1/models`.
    """

    accepts = "bytes"
    has_fixed_memory = True

    def __init__(
        self,
        loading: Loading,
        *,
        command: str,
        health: str = "/health",
        start_seconds: float = 1800.0,
        model: str = "",
    ) -> None:
        free_bytes = _free_device_bytes()
        self._loading = loading
        self._is_ready = False
        self._server = EngineServer(command, self._note_end)
        try:
            self._server.wait_until_healthy(health, start_seconds, loading)
            self._model = model or _first_model(self._server.url)
        except BaseException:
            self._server.stop()
            raise
        self._is_ready = True
        self._device_bytes = max(0, free_bytes - _free_device_bytes())
        self._client: httpx.AsyncClient | None = None

    def memory_bytes(self, cost: float) -> int:
        """Return the device memory of the engine, which it does not share with other models."""
        return self._device_bytes

    async def close(self) -> None:
        """End the engine."""
        if self._client is not None:
            await self._client.aclose()
        self._server.stop()

    def _note_end(self) -> None:
        # The start reports the end of an engine that was never ready.
        if self._is_ready:
            code, lines = self._server.exit_code, self._server.last_lines
            # Callers see the reason, and the engine may have printed the prompts of jobs.
            _log.error("the engine ended with exit code %s; it printed: %s", code, lines)
            crash = "" if self._server.was_killed else f"the engine ended with exit code {code}"
            self._loading.reload(crash)

    async def __call__(self, item: bytes, context: Context, *, parameters: dict[str, Any]) -> Any:
        """Send one job to the engine, emit the chunks of its answer, and return the answer."""
        if not self._server.is_running:
            self._loading.reload()
            raise EngineLost("the engine had ended before the job", has_started=False)
        operation = context.operation
        if operation in _FORMS:
            form = {name: _form_value(value) for name, value in parameters.items()}
            form["model"] = self._model
            files = {_FORMS[operation]: ("file", item)}
            return await self._send(operation, context, None, data=form, files=files)
        body, is_text = _body_of(item, parameters)
        operation = operation or _operation_of(body)
        named = body.get("model")
        body["model"] = self._model
        body["stream"] = context.is_streaming and operation in _STREAMED
        if not body["stream"]:
            body.pop("stream_options", None)
        answer = await self._send(operation, context, named, is_text=is_text, json=body)
        return text_of(answer) if is_text else answer

    async def _send(
        self,
        operation: str,
        context: Context,
        named: str | None,
        *,
        is_text: bool = False,
        **request: Any,
    ) -> Any:
        """Send a request and return the answer. `named` is the model's name for the caller."""
        if self._client is None:
            timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
            self._client = httpx.AsyncClient(
                base_url=self._server.url, timeout=timeout, limits=limits, trust_env=False
            )
        try:
            async with self._client.stream("POST", f"/v1/{_PATHS[operation]}", **request) as found:
                return await _read_answer(found, operation, context, named, is_text=is_text)
        except httpx.HTTPError as error:
            # The process may take a moment to end after its connections.
            if await asyncio.to_thread(self._server.wait_for_end, _END_SECONDS):
                raise EngineLost(
                    f"the engine died; it printed: {self._server.last_lines}",
                    is_crash=not self._server.was_killed,
                ) from None
            raise InferenceFailed(
                f"the engine broke off the request ({type(error).__name__}); send the job again, "
                "and look into the engine's log if it fails again"
            ) from None


async def _read_answer(
    found: httpx.Response, operation: str, context: Context, named: str | None, *, is_text: bool
) -> Any:
    """Return the engine's answer. If it is a stream, emit its chunks first."""
    kind = found.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found.status_code != httpx.codes.OK:
        raise _refusal(found.status_code, b"".join([piece async for piece in _pieces(found)]))
    if kind == "text/event-stream":
        chunks = []
        async for chunk in _chunks(found):
            _rename(chunk, named)
            chunks.append(chunk)
            if context.is_streaming:
                emitted = text_of(chunk) if is_text else chunk
                if emitted:
                    context.emit(emitted)
                    await context.wait_for_room()
        return assemble(operation, chunks)
    data = b"".join([piece async for piece in _pieces(found)])
    if operation == "audio.speech" and kind.startswith("audio/"):
        return data
    if kind == "text/plain" and operation in _FORMS:
        return data.decode("utf-8", "replace")
    if kind != "application/json":
        raise InferenceFailed(
            f"the engine answered with the type {kind[:100] or 'none'}, not with JSON; check that "
            f"options.command starts a server with the route /v1/{_PATHS[operation]}"
        )
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        raise InferenceFailed("the engine's answer is not valid JSON; send the job again") from None
    _rename(answer, named)
    return answer


async def _chunks(found: httpx.Response) -> AsyncIterator[Answer]:
    """Yield the JSON objects of a stream of server-sent events."""
    reader = EventReader()
    async for piece in _pieces(found):
        for data in reader.feed(piece):
            if data == "[DONE]":
                continue
            try:
                chunk = json.loads(data)
            except (ValueError, RecursionError):
                chunk = None
            if not isinstance(chunk, dict):
                raise InferenceFailed(
                    f"the engine sent an event that is not a JSON object: {data[:100]!r}; check "
                    "that options.command starts a server with OpenAI's API"
                )
            if isinstance(chunk.get("error"), Mapping):
                raise InferenceFailed(f"the engine failed: {_message_of(chunk)}")
            yield chunk


async def _pieces(found: httpx.Response) -> AsyncIterator[bytes]:
    size_bytes = 0
    async for piece in found.aiter_bytes():
        size_bytes += len(piece)
        if size_bytes > MAX_ANSWER_BYTES:
            raise InferenceFailed(
                f"the engine's answer has more than {MAX_ANSWER_BYTES} bytes; ask for fewer tokens"
            )
        yield piece


def _refusal(status: int, data: bytes) -> Exception:
    try:
        message = _message_of(json.loads(data))
    except (ValueError, RecursionError):
        message = data.decode("utf-8", "replace")[:_MAX_TEXT_CHARACTERS]
    if 400 <= status < 500:
        return InvalidInput(f"the engine refused the request with status {status}: {message}")
    return InferenceFailed(f"the engine failed with status {status}: {message}")


def _message_of(value: Any) -> str:
    error = value.get("error", value) if isinstance(value, dict) else value
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:_MAX_TEXT_CHARACTERS]


def _body_of(item: bytes, parameters: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return the body of the engine's request, and whether the caller has sent plain text."""
    try:
        text = item.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the input is neither JSON nor text in UTF-8") from None
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        return {**parameters, **body}, False
    return {**parameters, "messages": [{"role": "user", "content": text}]}, True


def _operation_of(body: Mapping[str, Any]) -> str:
    """Return the operation of a job that has none, by the members of its body."""
    for member, operation in (
        ("messages", "chat.completions"),
        ("prompt", "completions"),
        ("input", "responses"),
    ):
        if member in body:
            return operation
    raise InvalidInput("the input has none of the members messages, prompt and input; add one")


def _form_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _rename(answer: Any, named: str | None) -> None:
    """Show the caller the name of the model that it has sent."""
    if named and isinstance(answer, dict):
        if "model" in answer:
            answer["model"] = named
        if isinstance(response := answer.get("response"), dict) and "model" in response:
            response["model"] = named


def _first_model(url: str) -> str:
    try:
        found = httpx.get(f"{url}/v1/models", timeout=_CONNECT_SECONDS, trust_env=False).json()
        return str(found["data"][0]["id"])
    except (httpx.HTTPError, ValueError, LookupError, TypeError):
        return ""


def _free_device_bytes() -> int:
    """Return the free memory of the GPU; 0 without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.mem_get_info()[0])
