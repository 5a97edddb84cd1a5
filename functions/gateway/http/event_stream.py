"""Answer with server-sent events, as long as the caller reads them (HTML standard, section 9.2).

The Functions host cuts a connection that is silent for 240 s, and an invocation that takes longer
than `functionTimeout` ends the language worker. So a silent stream gets comments, and each stream
ends itself before.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from contract.errors import MalformedMessage
from contract.streams import (
    BEFORE_ALL,
    EventId,
    StreamEvent,
    StreamEventType,
    format_event_id,
    parse_event_id,
)
from gateway.http.requests import EVENT_STREAM, durable_of, services_of, wait_for_hang_up
from gateway.jobs.model import JobResource, Record, add_text_result
from gateway.problems import malformed
from gateway.streams.feeds import ReaderBehind

COMMENT_SECONDS: Final = 15.0
"""After what silence a stream gets a comment."""

LONGEST_STREAM_SECONDS: Final = 55 * 60.0
"""How long a response lasts. The caller can resume the stream with another request."""

BLOCKED_SECONDS: Final = 60.0
"""How long the caller may receive nothing of what is sent, before the response is given up."""

_COMMENT: Final = b":\n\n"
# Without `charset`, which Starlette adds to a text's media type. The format is always UTF-8.
_HEADERS: Final = {
    "Content-Type": EVENT_STREAM,
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}

_LOST: Final = "some events could not be stored or read; the job itself is complete"

_log = logging.getLogger(__name__)


class EventStreamResponse(Response):
    """A response whose body is made while the caller reads it.

    `pieces` yields the body, and is closed when the caller disconnects or does not read. `slot` is
    closed at the end of the response. `resume` returns the last piece of a response that has taken
    LONGEST_STREAM_SECONDS.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        slot: contextlib.ExitStack,
        resume: Callable[[], bytes],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._pieces = pieces
        self._slot = slot
        self._resume = resume
        self._sent_at = 0.0
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces until the last one, or until the caller is gone."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + LONGEST_STREAM_SECONDS
        with self._slot:
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            # The middleware that compresses sends the headers with the first part of the body.
            await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})
            self._sent_at = loop.time()
            pumping = asyncio.create_task(self._pump(send))
            gone = asyncio.create_task(wait_for_hang_up(receive))
            try:
                last = await self._watch(pumping, gone, ends_at, send)
            finally:
                for task in (pumping, gone):
                    task.cancel()
                await asyncio.wait([pumping, gone])
                await self._pieces.aclose()
            if last is not None:
                await send({"type": "http.response.body", "body": last})

    async def _watch(
        self,
        pumping: "asyncio.Task[None]",
        gone: "asyncio.Task[None]",
        ends_at: float,
        send: Send,
    ) -> bytes | None:
        """Return what ends the body; None if the caller gets no more."""
        loop = asyncio.get_running_loop()
        while True:
            next_at = min(self._sent_at + COMMENT_SECONDS, ends_at)
            if self._is_sending:
                next_at = self._sent_at + BLOCKED_SECONDS
            await asyncio.wait(
                [pumping, gone],
                timeout=max(0.0, next_at - loop.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if gone.done():
                return None
            if pumping.done():
                pumping.result()
                return b""
            now = loop.time()
            if self._is_sending:
                if now - self._sent_at >= BLOCKED_SECONDS:
                    _log.info("a stream was closed, because its reader has stopped to read")
                    return None
            elif now >= ends_at:
                return self._resume()
            elif now - self._sent_at >= COMMENT_SECONDS:
                self._sent_at = now
                await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})

    async def _pump(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        async for piece in self._pieces:
            self._is_sending, self._sent_at = True, loop.time()
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._is_sending, self._sent_at = False, loop.time()


def parse_after(headers: Sequence[str], option: str | None) -> EventId:
    """Return the id of the event to resume after, from Last-Event-ID or the option `after`.

    Browsers send Last-Event-ID when they reconnect to the same URL, so the header counts first.
    """
    given = {"after": option, "Last-Event-ID": headers[0].strip() if headers else None}
    after = BEFORE_ALL
    for name, text in given.items():
        try:
            after = parse_event_id(text) if text else after
        except MalformedMessage as error:
            raise malformed(f"{name}: {error}") from None
    return after


def encode_sse(event: str, data: object, event_id: str | None = None) -> bytes:
    """Return one server-sent event, whose data is JSON."""
    head = b"" if event_id is None else b"id: %s\n" % event_id.encode()
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"%sevent: %s\ndata: %s\n\n" % (head, event.encode(), text.encode("utf-8", "replace"))


class JobEvents:
    """The server-sent events of one job, for one caller."""

    def __init__(
        self,
        request: Request,
        job_id: str,
        record: Record,
        after: EventId = BEFORE_ALL,
        *,
        show: Callable[[str, Record], JobResource],
    ) -> None:
        """Begin after the event `after`. `show` returns what the caller may see of the job."""
        self._request = request
        self._job_id = job_id
        self._record = record
        self._last = after
        self._show = show

    def resume(self) -> bytes:
        """Return the event that says how to go on with another request."""
        return self._ending("resume", "the response has reached its longest time")

    async def pieces(self, first: bytes = b"") -> AsyncGenerator[bytes, None]:
        """Yield `first`, and then the events until the job has ended."""
        services, durable = services_of(self._request), durable_of(self._request)
        if first:
            yield first
        following = services.streams.follow_many(durable, self._job_id, self._record, self._last)
        try:
            async with contextlib.aclosing(following) as found:
                async for events in found:
                    if events[0].type is StreamEventType.END:
                        yield await self._end(events[0])
                    else:
                        yield b"".join(map(encode_event, events))
                        self._last = events[-1].key
        except ReaderBehind as behind:
            self._last = behind.after
            yield self._ending("behind", "the events were not read fast enough")

    async def _end(self, event: StreamEvent) -> bytes:
        services, record = services_of(self._request), event.data
        lost = encode_sse("stream_lost", {"message": _LOST}) if record.get("stream_lost") else b""
        record = await services.progress.add_to(self._job_id, record)
        record = await add_text_result(services.payloads, record)
        return lost + encode_sse("end", self._show(self._job_id, record), event.id)

    def _ending(self, event: str, reason: str) -> bytes:
        after = format_event_id(self._last)
        message = f"{reason}; follow the job again with the header Last-Event-ID: {after}"
        return encode_sse(event, {"after": after, "message": message}, after)


def encode_event(event: StreamEvent) -> bytes:
    """Return an event of a log as a server-sent event."""
    is_attempt = event.type is StreamEventType.ATTEMPT
    data = {"attempt": event.attempt} if is_attempt else event.data
    return encode_sse(event.type.value, data, event.id)
