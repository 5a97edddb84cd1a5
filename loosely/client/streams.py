"""The stream of a job: its events, each once and in order, over as many responses as needed."""

import json
from collections.abc import AsyncGenerator
from typing import Any, Final, Self

from loosely.client.errors import StreamRestarted
from loosely.client.resources import Job, JobEvent, decode_json
from loosely.client.sse import EventParser

_KINDS: Final = frozenset({"chunk", "progress", "attempt", "stream_lost"})
_INTERRUPTIONS: Final = frozenset({"resume", "behind"})


class StreamReader:
    """Reads the responses with a job's events. Raises ValueError if one has another format.

    ``ended`` is the job when the event ``end`` was received. ``is_interrupted`` says whether the
    gateway ends this response in order that the client asks again.
    """

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self.ended: Job | None = None
        self._last = _read_id(last_id)
        self.start_response()

    def start_response(self) -> None:
        """Prepare for the first bytes of another response."""
        self.is_interrupted = False
        self._parser = EventParser()

    def read(self, received: bytes) -> list[JobEvent]:
        """Return the events that are complete with these bytes and were not returned before."""
        events: list[JobEvent] = []
        for each in self._parser.feed(received):
            if each.type in _INTERRUPTIONS:
                self.is_interrupted = True
            elif each.type == "end":
                self.ended = Job.from_document(decode_json(each.data.encode()), each.data.encode())
                if self.ended is None:
                    raise ValueError("the event `end` has no job")
            elif each.type in _KINDS:
                found = _read_id(each.id)
                if found > self._last:
                    self._last, self.last_id = found, each.id
                elif each.id is not None:
                    continue
                events.append(JobEvent(each.type, json.loads(each.data), each.id))
        return events


def _read_id(text: str | None) -> tuple[int, int]:
    if text is None:
        return 0, 0
    attempt, dash, number = text.partition("-")
    if not (dash and attempt.isdecimal() and number.isdecimal()):
        raise ValueError(f"expected the id of an event, such as 1-3, found {text!r:.100}")
    return int(attempt), int(number)


class AsyncJobStream:
    """An asynchronous iterator over the events of a job, until the job has ended.

    It resumes by itself after any break. Each event comes once and in order. After an event whose
    kind is ``attempt``, the job runs again: drop the earlier chunks.

    Attributes:
        job: The job, when it is known. After the last event it has ended.
        last_event_id: The id at which `follow` continues, also in another process.
    """

    def __init__(
        self, found: AsyncGenerator[JobEvent | Job, None], last_event_id: str | None = None
    ) -> None:
        """Take the events and the states of the job from a generator."""
        self._found = found
        self._has_chunks = last_event_id is not None
        self.job: Job | None = None
        self.last_event_id = last_event_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobEvent:
        async for found in self._found:
            if isinstance(found, JobEvent):
                self.last_event_id = found.id or self.last_event_id
                return found
            self.job = found
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. The job continues."""
        await self._found.aclose()

    async def chunks(self) -> AsyncGenerator[Any, None]:
        """Yield only the chunks. Raises StreamRestarted if earlier ones count no more."""
        async for event in self:
            if event.kind == "chunk":
                self._has_chunks = True
                yield event.data
            elif event.kind == "attempt" and self._has_chunks:
                self._has_chunks = False
                raise StreamRestarted

    @property
    def result(self) -> Any:
        """The job's result, as `Job.result`. Raises RuntimeError before the end of the stream."""
        if self.job is None or not self.job.is_final:
            raise RuntimeError("the stream has not ended: first iterate over all its events")
        return self.job.result
