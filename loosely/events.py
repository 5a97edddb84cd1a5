"""A job's events, and the server-sent events of WHATWG HTML that bring them."""

import codecs
from dataclasses import dataclass, field

from loosely.errors import UnexpectedAnswer
from loosely.job import Job

#: An event is one job, and a job's inline result is small; more is a peer that never stops.
_MAX_EVENT_CHARACTERS = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """A change in a job's life.

    ``kind`` is ``status``, ``progress`` or ``final``, the last; later gateways may add
    others. ``id`` resumes after this event, and is empty where the gateway cannot stream.
    """

    kind: str
    job: Job
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event as it came."""

    kind: str
    data: str
    id: str


@dataclass(slots=True)
class EventParser:
    """Takes a stream's bytes in whatever pieces they come, gives its messages.

    ``place`` is what errors say of the stream's address.
    """

    place: str
    retry_ms: int | None = None
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8-sig")("replace")
    )
    _rest: str = ""
    _kind: str = ""
    _id: str = ""
    _data: list[str] = field(default_factory=list)
    _data_characters: int = 0

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that ``chunk`` completes.

        Raises:
            UnexpectedAnswer: a message is longer than any job.
        """
        text = self._rest + self._decoder.decode(chunk)
        # A CR may be the first half of a CRLF that the next chunk completes.
        held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix(held).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + held
        messages = [message for line in lines if (message := self._line(line))]
        if self._data_characters + len(self._rest) > _MAX_EVENT_CHARACTERS:
            raise UnexpectedAnswer(self.place, 200, "with an event that does not end")
        return messages

    def _line(self, line: str) -> Message | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
                self._data_characters += len(value)
            case "event":
                self._kind = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry_ms = int(value[:9])
        return None

    def _dispatch(self) -> Message | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data, self._data_characters = "", [], 0
        return Message(kind, "\n".join(data), self._id) if data else None
