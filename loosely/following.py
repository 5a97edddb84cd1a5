"""A job's events as they happen: streamed where the gateway can, asked for where it cannot."""

from dataclasses import dataclass
from typing import Any, Final

from loosely.answers import failure
from loosely.errors import GatewayFailure, GatewayUnreachable, LooselyError, UnexpectedAnswer
from loosely.events import Event, EventParser, Message
from loosely.job import Job, decode
from loosely.operations import Operations
from loosely.steps import Answer, Emit, Open, Pause, Read, Steps

#: How often a job that tells its progress is looked at where it cannot be streamed.
_LOOK_SECONDS: Final = 5
_FINAL: Final = "final"
_LONGEST_RECONNECT_SECONDS: Final = 30.0


@dataclass(slots=True)
class _Reader:
    """How far the reading of one job has come."""

    last_id: str
    failures: int = 0
    failing_since: float = 0.0
    reconnect_seconds: float = 0.0


def events(operations: Operations, job_id: str, after: str = "") -> Steps[None]:
    """Emit the job's events from now, or from after the event with the id ``after``."""
    reader = _Reader(after)
    while True:
        error: LooselyError
        try:
            if (yield from _stream(operations, job_id, reader)):
                return
            error = GatewayUnreachable(operations.place, "the stream ended before the job")
        except GatewayFailure as refused:
            if refused.code == "streaming-unavailable":
                yield from _looked_for(operations, job_id)
                return
            error = refused
        except LooselyError as lost:
            error = lost
        yield Pause(_pause_seconds(operations, reader, error))


def _pause_seconds(operations: Operations, reader: _Reader, error: LooselyError) -> float:
    """How long to wait before the stream is asked for again; raises what is not to be outlived."""
    now = operations.clock()
    reader.failures += 1
    if reader.failures == 1:
        reader.failing_since = now
    pause_seconds = operations.retry.pause_seconds(
        error, reader.failures, now - reader.failing_since, operations.draw
    )
    if pause_seconds is None:
        raise error
    return max(pause_seconds, reader.reconnect_seconds)


def _stream(operations: Operations, job_id: str, reader: _Reader) -> Steps[bool]:
    """Emit what one connection brings; return whether that was the job's end."""
    opened: Answer = yield Open(operations.endpoint.events(job_id, reader.last_id))
    if opened.status == 204:  # there is nothing after the last event
        return True
    if opened.status != 200:
        raise failure(opened, operations.place)
    if not opened.headers.get("content-type", "").startswith("text/event-stream"):
        raise UnexpectedAnswer(operations.place, 200, "with no events in it")
    parser = EventParser(operations.place)
    is_alive = False
    while chunk := (yield Read()):
        # The first piece only greets: a gateway that falls silent after it is not there.
        reader.failures = 0 if is_alive else reader.failures
        is_alive = True
        for message in parser.feed(chunk):
            event = _event(operations.place, message)
            reader.last_id, reader.failures = message.id or reader.last_id, 0
            yield Emit(event)
            if event.job.is_final:
                return True
        if parser.retry_ms is not None:
            reader.reconnect_seconds = min(parser.retry_ms / 1000, _LONGEST_RECONNECT_SECONDS)
    return False


def _event(place: str, message: Message) -> Event:
    body = message.data.encode()
    job = Job.from_document(decode(body), body)
    if job is None:
        raise UnexpectedAnswer(place, 200, "with an event that has no job in it")
    return Event(message.kind, job, message.id)


def _looked_for(operations: Operations, job_id: str) -> Steps[None]:
    """Emit the same from long-polls: what changed in between is not told, as in the stream."""
    seen: tuple[str, Any] | None = None
    wait_seconds = 0
    while True:
        asked_at = operations.clock()
        job = yield from operations.get(job_id, wait_seconds)
        now = (job.status, job.progress)
        if job.is_final:
            yield Emit(Event(_FINAL, job))
            return
        if seen is None or seen[0] != now[0]:
            yield Emit(Event("status", job))
        elif seen != now:
            yield Emit(Event("progress", job))
        if seen is not None:
            yield from operations.breathe(job, operations.clock() - asked_at)
        seen, wait_seconds = now, _LOOK_SECONDS
