"""The routes POST /openai/v1/chat/completions and /openai/v1/completions.

https://platform.openai.com/docs/api-reference/chat
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contract.streams import EventId
from gateway import problems
from gateway.http.openai.calls import (
    CallResult,
    find_call,
    json_job,
    read_object,
    refused,
    run,
)
from gateway.http.openai.streams import DONE, encode_data, encode_error, stream_call
from gateway.http.requests import TextRoute, caller_of, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.jobs.model import Record
from gateway.problems import HttpProblem

CHAT: Final = "chat.completions"
COMPLETIONS: Final = "completions"

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/chat/completions")
async def complete_chat(request: Request) -> Response:
    """Return the answer of a model to a chat, as a whole or as a stream."""
    return await _complete(request, CHAT, "messages", ChatShape)


@router.post("/openai/v1/completions")
async def complete_text(request: Request) -> Response:
    """Return the text with which a model goes on, as a whole or as a stream."""
    return await _complete(request, COMPLETIONS, "prompt", TextShape)


async def _complete(
    request: Request, operation: str, member: str, shape: "Callable[[str, str, int], ChatShape]"
) -> Response:
    """Answer a call, whose input is in this member.

    The model gets the request's JSON. It returns a text, or the object of the OpenAI API, which
    passes unchanged; it emits texts, or the API's chunks.
    """
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, body = await read_object(request, held)
        call = find_call(request, operation, asked.get("model"))
        if not isinstance(asked.get(member), str | list) or not asked[member]:
            raise refused(member, "it is missing or empty")
        job = json_job(request, call, body, held, asked.get("metadata"))
        options = asked.get("stream_options")
        has_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        is_streamed = bool(asked.get("stream"))
        del asked, body  # their memory is not needed while the job runs
        if is_streamed:
            made = partial(CompletionStream, shape, call.name, has_usage)
            return await stream_call(request, job, made)
        result = await run(request, job)
    found = result.json()
    if isinstance(found, dict) and "object" in found:
        return result.response()
    created = int(services_of(request).clock().timestamp())
    shown = shape(result.job_id, call.name, created).whole(text_of(found), usage_of(found))
    return json_response(shown, headers=result.headers)


def text_of(found: Any) -> str:
    """Return the text that a model has returned, also as `{"text": …}`."""
    text = found.get("text") if isinstance(found, dict) else found
    if not isinstance(text, str):
        raise HttpProblem(
            problems.INFERENCE_FAILED,
            'the model returned no text: it must return a text, or an object with "text"',
            retryable=False,
        )
    return text


def usage_of(found: Any) -> dict[str, int]:
    """Return the token counts that a model has returned beside its text; 0 for what is missing."""
    given = found.get("usage") if isinstance(found, dict) else None
    given = given if isinstance(given, dict) else {}
    counts = [int(given.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    return {
        "prompt_tokens": counts[0],
        "completion_tokens": counts[1],
        "total_tokens": sum(counts),
    }


class ChatShape:
    """The objects of a chat."""

    prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(self, job_id: str, model: str, created: int) -> None:
        self._id = self.prefix + job_id.replace("-", "")
        self._model = model
        self._created = created

    def whole(self, text: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return the whole answer."""
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **self.full(text)}
        return {**self._frame(self.kind), "choices": [choice], "usage": usage}

    def part(
        self, text: str | None, finish_reason: str | None = None, *, is_first: bool = False
    ) -> dict[str, Any]:
        """Return a chunk with a part of the text."""
        choice = {"index": 0, "finish_reason": finish_reason, "logprobs": None}
        return self.chunk([choice | self.delta(text, is_first=is_first)])

    def chunk(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        """Return a chunk with these choices."""
        return {**self._frame(self.chunk_kind), "choices": choices, **more}

    def full(self, text: str) -> dict[str, Any]:
        """Return what a choice has of the whole text."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str | None, *, is_first: bool) -> dict[str, Any]:
        """Return what the choice of a chunk has of a part of the text."""
        role = {"role": "assistant"} if is_first else {}
        return {"delta": {**role, **({} if text is None else {"content": text})}}

    def delta_of(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return the choice of a whole answer as that of a chunk."""
        return {**{k: v for k, v in choice.items() if k != "message"}, "delta": choice["message"]}

    def _frame(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


class TextShape(ChatShape):
    """The objects of a text completion, whose chunks have the same form as the whole."""

    prefix = "cmpl-"
    kind = "text_completion"
    chunk_kind = "text_completion"

    def full(self, text: str) -> dict[str, Any]:
        """Return what a choice has of the whole text."""
        return {"text": text}

    def delta(self, text: str | None, *, is_first: bool) -> dict[str, Any]:
        """Return what the choice of a chunk has of a part of the text."""
        return {"text": text or ""}

    def delta_of(self, choice: dict[str, Any]) -> dict[str, Any]:
        """Return the choice of a whole answer as that of a chunk."""
        return choice


class CompletionStream:
    """The events of a streamed completion."""

    def __init__(
        self,
        shape: "Callable[[str, str, int], ChatShape]",
        model: str,
        has_usage: bool,
        job_id: str,
        record: Record,
    ) -> None:
        created = int(datetime.fromisoformat(record["created_at"]).timestamp())
        self._shape = shape(job_id, model, created)
        self._has_usage = has_usage
        self._text_count = 0
        self._object_count = 0

    def begin(self) -> Iterable[bytes]:
        """Return no event."""
        return ()

    def restart(self, begun: EventId) -> None:
        """Do nothing, because the chunks have no numbers."""

    def chunk(self, data: Any) -> Iterable[bytes]:
        """Return a chunk of the API unchanged, and a text as one."""
        if isinstance(data, dict) and "object" in data:
            self._object_count += 1
            return [encode_data(data)]
        text = data if isinstance(data, str) else text_of(data)
        self._text_count += 1
        return [encode_data(self._shape.part(text, is_first=self._text_count == 1))]

    def end(self, result: CallResult) -> Iterable[bytes]:
        """Return the last chunks; with all of the text if the model has emitted nothing."""
        return [*([] if self._object_count else self._last(result.json())), DONE]

    def _last(self, found: Any) -> Iterable[bytes]:
        shape = self._shape
        if isinstance(found, dict) and "object" in found:
            yield encode_data(shape.chunk(list(map(shape.delta_of, found.get("choices", ())))))
        else:
            if not self._text_count:
                yield encode_data(shape.part(text_of(found), is_first=True))
            yield encode_data(shape.part(None, "stop"))
        if self._has_usage:
            given = found.get("usage") if isinstance(found, dict) else None
            yield encode_data(shape.chunk([], usage=given or usage_of(found)))

    def error(self, problem: HttpProblem) -> Iterable[bytes]:
        """Return an event with the error, after which clients read no more."""
        return encode_error(problem)
