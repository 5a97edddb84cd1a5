"""Answer a call of the OpenAI API with a stream of server-sent events.

The stream is a view of the job's log of events. A format turns chunks of a model into events of the
API. This API cannot tell a client to drop what it has. So if the job runs again after the client
has got chunks, the stream ends with an error that names the job.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import replace
from typing import Any, Final, Protocol

from fastapi import Request

from contract.streams import BEFORE_ALL, EventId, StreamEvent, StreamEventType
from gateway import problems
from gateway.errors import Unavailable
from gateway.http.event_stream import EventStreamResponse
from gateway.http.openai.calls import cancel, result_of, submit
from gateway.http.requests import caller_of, durable_of, idempotency_key_of, services_of
from gateway.jobs.model import Record, is_final, job_path
from gateway.json_text import encode_json
from gateway.openai.calls import JOB_HEADER, CallResult
from gateway.openai.errors import error_document
from gateway.problems import HttpProblem
from gateway.streams.feeds import ReaderBehind
from gateway.submission.parse import NewJob

HANG_UP_SECONDS: Final = 5.0
"""How long after a hang-up the job goes on, so that another request can follow it."""

DONE: Final = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)

cancelling: Final[set[asyncio.Task[None]]] = set()
"""The tasks that cancel jobs after a hang-up. The event loop has only weak references to them."""


class StreamFormat(Protocol):
    """Turns what a model emits into the events of one operation. Each is used for one stream."""

    def begin(self) -> Iterable[bytes]:
        """Return the events before the first chunk."""

    def restart(self, begun: EventId) -> None:
        """Note before the first chunk that the model runs again, since this event."""

    def chunk(self, data: Any) -> Iterable[bytes]:
        """Return the events for a chunk."""

    def end(self, result: CallResult) -> Iterable[bytes]:
        """Return the events after the last chunk of a job that has succeeded."""

    def error(self, problem: HttpProblem) -> Iterable[bytes]:
        """Return the events of a stream that ends with a problem."""


def encode_data(data: Any, event: str | None = None) -> bytes:
    """Return a server-sent event whose data is JSON."""
    head = b"" if event is None else b"event: %s\n" % event.encode()
    return b"%sdata: %s\n\n" % (head, encode_json(data))


def encode_error(problem: HttpProblem) -> list[bytes]:
    """Return a problem as the last event of a stream."""
    return [encode_data(error_document(problem))]


async def stream_call(
    request: Request,
    job: NewJob,
    make_format: Callable[[str, Record], StreamFormat],
    *,
    cancels: bool = True,
) -> EventStreamResponse:
    """Submit a job, and return the response that streams what its model emits.

    `make_format` is called with the job's id and record. If it `cancels`, a client that hangs up
    cancels the job, unless it sent an Idempotency-Key (see `CallStream`).
    """
    with contextlib.ExitStack() as slot:
        slot.enter_context(services_of(request).streams.opening(caller_of(request).tenant))
        submitted = await submit(request, replace(job, stream=True), 0)
        stream = CallStream(
            request,
            submitted.job_id,
            submitted.record,
            make_format(submitted.job_id, submitted.record),
            cancels=cancels and idempotency_key_of(request) is None,
        )
        return stream.response(slot.pop_all())
    raise AssertionError("the block returns or raises")


class CallStream:
    """The stream of one job for one client.

    If it `cancels`, the job is cancelled HANG_UP_SECONDS after the client hung up, unless somebody
    then follows the job in this process.
    """

    def __init__(  # noqa: PLR0913 - what is streamed, and how
        self,
        request: Request,
        job_id: str,
        record: Record,
        form: StreamFormat,
        *,
        cancels: bool,
        after: EventId = BEFORE_ALL,
    ) -> None:
        self._request = request
        self._job_id = job_id
        self._record = record
        self._form = form
        self._cancels = cancels
        self._after = after
        self._has_chunks = False
        self._is_followed = True

    def response(self, slot: contextlib.ExitStack) -> EventStreamResponse:
        """Return the response, which closes `slot` at its end."""
        headers = {JOB_HEADER: self._job_id}
        return EventStreamResponse(self._pieces(), slot, self._resume, headers)

    def _resume(self) -> bytes:
        self._is_followed = False
        return b"".join(self._form.error(self._broken("the response has reached its longest time")))

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        services, durable = services_of(self._request), durable_of(self._request)
        following = services.streams.follow_many(durable, self._job_id, self._record, self._after)
        try:
            if begin := b"".join(self._form.begin()):
                yield begin
            async with contextlib.aclosing(following) as found:
                async for events in found:
                    if piece := b"".join(await self._show(events)):
                        yield piece
            self._is_followed = False
        except ReaderBehind:
            self._is_followed = False
            yield b"".join(self._form.error(self._broken("the events were not read fast enough")))
        except HttpProblem as problem:
            self._is_followed = False
            yield b"".join(self._form.error(problem))
        finally:
            if self._is_followed and self._cancels and not is_final(self._record):
                task = asyncio.create_task(self._cancel_later())
                cancelling.add(task)
                task.add_done_callback(cancelling.discard)

    async def _show(self, events: list[StreamEvent]) -> list[bytes]:
        pieces: list[bytes] = []
        for event in events:
            match event.type:
                case StreamEventType.CHUNK:
                    pieces += self._form.chunk(event.data)
                    self._has_chunks = True
                case StreamEventType.ATTEMPT if self._has_chunks:
                    raise self._broken("the job runs again, so what was sent does not count")
                case StreamEventType.ATTEMPT:
                    self._form.restart(event.key)
                case StreamEventType.END:
                    pieces += await self._end(event.data)
        return pieces

    async def _end(self, record: Record) -> list[bytes]:
        try:
            result = await result_of(self._request, self._job_id, record)
        except HttpProblem as problem:
            return list(self._form.error(problem))
        if record.get("stream_lost"):
            return list(self._form.error(self._broken("some events could not be stored or read")))
        return list(self._form.end(result))

    def _broken(self, reason: str) -> HttpProblem:
        detail = f"{reason}; the job goes on or has ended, see {job_path(self._job_id)}"
        return HttpProblem(problems.UNAVAILABLE, detail, retryable=False)

    async def _cancel_later(self) -> None:
        await asyncio.sleep(HANG_UP_SECONDS)
        if services_of(self._request).streams.reader_count(self._job_id):
            return
        try:
            await cancel(self._request, self._job_id, self._record)
        except Unavailable as error:
            _log.warning("job %s goes on although its client hung up: %s", self._job_id, error)
