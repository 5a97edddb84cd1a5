"""A small OpenAI-compatible engine for tests: its answers depend only on the prompt.

    python tests/engine_server.py --port 8001 [--tokens 20] [--rate 50] [--fault NAME]

The answer to a prompt is `--tokens` words, each a digest of the prompt and the word's number. A
prompt may begin with `tokens=N` or `rate=N`, or name a fault, as in `fault=broken-sse hello`. The
faults of FAULTS_AT_START need the option. `GET /state` returns how many requests are open and how
many have been answered.
"""

import argparse
import asyncio
import hashlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

FAULTS_AT_START: Final = ("never-healthy", "dies-at-start")
FAULTS: Final = (
    *("dies-in-stream", "broken-sse", "hangs", "floods", "wrong-type", "ends-early", "refuses"),
)
FLOOD_BYTES: Final = 100 * 1024 * 1024
MODEL: Final = "deterministic"


def words(prompt: str, count: int) -> list[str]:
    """Return the tokens of the answer to a prompt."""
    digests = (hashlib.sha256(f"{prompt}/{n}".encode()).hexdigest() for n in range(count))
    return [f"{digest[:5]} " for digest in digests]


class TestEngine:
    """The engine's routes and its state."""

    __test__ = False

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.open_count = 0
        self.answered_count = 0

    def app(self) -> Starlette:
        """Return the ASGI app."""
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/state", self.state),
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/responses", self.complete, methods=["POST"]),
                Route("/v1/embeddings", self.embed, methods=["POST"]),
            ]
        )

    async def health(self, request: Request) -> Response:
        """Say whether the engine is ready."""
        return Response(status_code=503 if self.options.fault == "never-healthy" else 200)

    async def state(self, request: Request) -> Response:
        """Count the requests."""
        return JSONResponse({"open": self.open_count, "answered": self.answered_count})

    async def models(self, request: Request) -> Response:
        """List the only model."""
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def embed(self, request: Request) -> Response:
        """Return vectors of four numbers."""
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": [
                    byte / 255 for byte in hashlib.sha256(str(text).encode()).digest()[:4]
                ],
            }
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return JSONResponse(
            {"object": "list", "data": data, "model": body["model"], "usage": usage}
        )

    async def complete(self, request: Request) -> Response:
        """Answer a prompt, as one object or as server-sent events."""
        body = await request.json()
        prompt = _prompt_of(body)
        given = dict(re.findall(r"(tokens|rate|fault)=([a-z0-9.-]+)", prompt))
        fault = given.get("fault", self.options.fault)
        tokens = words(prompt, int(given.get("tokens", self.options.tokens)))
        pause_seconds = 1 / float(given.get("rate", self.options.rate))
        if fault == "dies-in-stream":
            sys.stderr.write(f"answering {prompt}\n")
        if fault == "refuses":
            return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)
        if fault == "wrong-type":
            return PlainTextResponse("<html>no engine here</html>")
        kind = request.url.path.removeprefix("/v1/")
        if body.get("stream"):
            events = self._events(kind, body, tokens, pause_seconds, fault)
            return StreamingResponse(events, media_type="text/event-stream")
        self.open_count += 1
        try:
            await self._wait(request, pause_seconds * len(tokens), fault)
        finally:
            self.open_count -= 1
        if fault == "dies-in-stream":
            os._exit(3)
        self.answered_count += 1
        answer = _answer(kind, body, "".join(tokens), len(tokens))
        if fault == "floods":
            answer["flood"] = "x" * FLOOD_BYTES
        return JSONResponse(answer)

    @staticmethod
    async def _wait(request: Request, seconds: float, fault: str | None) -> None:
        """Wait as long as the answer takes; end at once if the client hangs up."""
        gone = asyncio.create_task(_disconnected(request))
        await asyncio.wait([gone], timeout=3600.0 if fault == "hangs" else seconds)
        gone.cancel()

    async def _events(
        self, kind: str, body: Any, tokens: list[str], pause_seconds: float, fault: str | None
    ) -> AsyncIterator[bytes]:
        self.open_count += 1
        try:
            if kind == "responses":
                yield _event({"type": "response.created", "response": _response(body, "", 0)})
            for number, token in enumerate(tokens):
                await asyncio.sleep(pause_seconds)
                if number == 3 and fault in FAULTS:
                    async for data in _fail(fault):
                        yield data
                    if fault == "ends-early":
                        return
                yield _event(_chunk(kind, body, token, number))
            text = "".join(tokens)
            if kind == "responses":
                done = _response(body, text, len(tokens))
                yield _event({"type": "response.completed", "response": done})
                return
            yield _event(_last_chunk(kind, body))
            if (body.get("stream_options") or {}).get("include_usage"):
                yield _event({**_chunk(kind, body, "", 0), "choices": [], "usage": _usage(tokens)})
            yield b"data: [DONE]\n\n"
            self.answered_count += 1
        finally:
            self.open_count -= 1


async def _fail(fault: str) -> AsyncIterator[bytes]:
    match fault:
        case "dies-in-stream":
            os._exit(3)
        case "broken-sse":
            yield b"data: {no JSON\n\n"
        case "hangs":
            await asyncio.sleep(3600)
        case "floods":
            for _ in range(FLOOD_BYTES // 65536):
                yield _event({"object": "chat.completion.chunk", "flood": "x" * 65000})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _prompt_of(body: Any) -> str:
    if "messages" in body:
        return str(body["messages"][-1]["content"])
    return str(body.get("prompt", body.get("input", "")))


def _event(value: Any) -> bytes:
    name = f"event: {value['type']}\n" if "type" in value else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


def _usage(tokens: list[str]) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": len(tokens), "total_tokens": 1 + len(tokens)}


def _chunk(kind: str, body: Any, token: str, number: int) -> dict[str, Any]:
    if kind == "responses":
        return {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": token,
            "logprobs": [],
            "sequence_number": number + 1,
        }
    about = {"id": "cmpl-1", "created": 0, "model": body.get("model", MODEL)}
    if kind == "completions":
        choice = {"index": 0, "text": token, "finish_reason": None, "logprobs": None}
        return {**about, "object": "text_completion", "choices": [choice]}
    role = {"role": "assistant"} if number == 0 else {}
    choice = {"index": 0, "delta": {**role, "content": token}, "finish_reason": None}
    return {**about, "object": "chat.completion.chunk", "choices": [choice]}


def _last_chunk(kind: str, body: Any) -> dict[str, Any]:
    chunk = _chunk(kind, body, "", 1)
    chunk["choices"][0]["finish_reason"] = "stop"
    return chunk


def _response(body: Any, text: str, count: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }
    return {
        "id": "resp_engine",
        "object": "response",
        "created_at": 0,
        "model": body.get("model", MODEL),
        "status": "completed" if count else "in_progress",
        "output": [message] if count else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
    }


def _answer(kind: str, body: Any, text: str, count: int) -> dict[str, Any]:
    if kind == "responses":
        return _response(body, text, count)
    about = {"id": "cmpl-1", "created": 0, "model": body.get("model", MODEL)}
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}
    if kind == "completions":
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None}
        found = {"object": "text_completion"}
    else:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice, found = (
            {"index": 0, "message": message, "logprobs": None},
            {"object": "chat.completion"},
        )
    return {**about, **found, "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--rate", type=float, default=200.0, help="tokens a second of one stream")
    parser.add_argument("--fault", choices=(*FAULTS_AT_START, *FAULTS))
    options = parser.parse_args()
    if options.fault == "dies-at-start":
        raise SystemExit("the engine finds no GPU")
    uvicorn.run(
        TestEngine(options).app(), host=options.host, port=options.port, log_level="warning"
    )


if __name__ == "__main__":
    main()
