"""Parse `text/event-stream` (the HTML standard, "Server-sent events"). Opens no connections."""

import re
from dataclasses import dataclass
from typing import Final

EVENT_STREAM: Final = "text/event-stream"
#: The longest event in bytes. The gateway's own events have at most about 100 KiB.
MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of a stream. ``id`` is ``None`` if the event has no id of its own."""

    type: str
    data: str
    id: str | None = None


class EventTooLong(ValueError):
    """An event is longer than `MAX_EVENT_BYTES`."""


class EventParser:
    """Parses one response. It ignores comments, unknown fields and an event that is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched_bytes = 0
        self._is_first = True
        self._is_after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._type = ""
        self._data: list[str] = []
        self._id: str | None = None
        self._event_bytes = 0

    def feed(self, received: bytes) -> list[ServerSentEvent]:
        """Return the events that are complete with these bytes. Raises EventTooLong."""
        self._buffer += received
        events = []
        while (line := self._take_line()) is not None:
            if line:
                self._event_bytes += len(line)
                self._read_field(line.decode("utf-8", "replace"))
                continue
            if self._data:
                events.append(ServerSentEvent(self._type, "\n".join(self._data), self._id))
            self._clear()
        if self._event_bytes + len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take_line(self) -> bytes | None:
        """Remove a line, which ends with CR, LF or both, from the buffer; None if there is none."""
        buffer = self._buffer
        if self._is_after_cr and buffer:
            # An LF belongs to the CR before it, even if it is received later.
            del buffer[: buffer.startswith(b"\n")]
            self._is_after_cr = False
        end = _LINE_END.search(buffer, self._searched_bytes)
        if end is None:
            self._searched_bytes = len(buffer)
            return None
        line = bytes(buffer[: end.start()])
        self._is_after_cr = end[0] == b"\r"
        del end  # a match locks the size of the bytearray
        del buffer[: len(line) + 1]
        self._searched_bytes = 0
        if self._is_first:
            self._is_first, line = False, line.removeprefix(_BYTE_ORDER_MARK)
        return line

    def _read_field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
