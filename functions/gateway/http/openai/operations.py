"""The routes of the operations that make something of an input, such as POST /chat/completions.

Chats and text completions may be streamed. The other routes are under `/responses`.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from contract.streams import EventId
from gateway.http.openai.calls import read_job, respond, run
from gateway.http.openai.streams import DONE, encode_data, encode_error, stream_call
from gateway.http.requests import TextRoute, caller_of, services_of
from gateway.jobs.model import Record
from gateway.openai.audio import SPEECH, TRANSCRIPTIONS
from gateway.openai.calls import ApiOperation, CallResult, Members, created_of
from gateway.openai.chat import CHAT, COMPLETIONS, ChatShape, TextShape, text_of, usage_of
from gateway.openai.embeddings import EMBEDDINGS
from gateway.openai.errors import PREFIX
from gateway.openai.images import EDITS, GENERATIONS
from gateway.problems import HttpProblem

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


def _add_route(operation: ApiOperation, shape: type[ChatShape] | None = None) -> None:
    """Add the route of an operation, which can be streamed if its chunks have a shape."""

    async def answer(request: Request) -> Response:
        with services_of(request).bodies.counting(caller_of(request).tenant) as held:
            asked, job = await read_job(request, operation, held)
            if shape is not None and asked.get("stream"):
                return await stream_call(request, job, partial(CompletionStream, shape, asked))
            result = await run(request, job)
        return respond(operation.show(asked, result), result)

    router.add_api_route(PREFIX + operation.path, answer, methods=["POST"], name=operation.name)


_add_route(CHAT, ChatShape)
_add_route(COMPLETIONS, TextShape)
for _each in (EMBEDDINGS, GENERATIONS, EDITS, TRANSCRIPTIONS, SPEECH):
    _add_route(_each)


class CompletionStream:
    """The events of a streamed completion."""

    def __init__(
        self,
        shape: type[ChatShape],
        asked: Members,
        job_id: str,
        record: Record,
    ) -> None:
        options = asked.get("stream_options")
        self._shape = shape(job_id, asked["model"], created_of(record))
        self._has_usage = isinstance(options, dict) and bool(options.get("include_usage"))
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
