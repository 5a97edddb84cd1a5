"""Count the operations of Service Bus and of HTTP services in the bytes of their connections.

A counting proxy passes all chunks of a connection to an observer. The observer splits the chunks
into AMQP frames or HTTP requests, and adds each operation to a `Counts` object.
"""

import re
import struct
import threading
from collections import Counter
from collections.abc import Callable

from emulator.servicebus.amqp.frames import AMQP_FRAME, HEADER_BYTES
from emulator.servicebus.amqp.performatives import Attach, Disposition, Transfer, read_performative
from emulator.servicebus.amqp.sections import section_value, split
from lab.benchmarks.proxy import NewObservers, Observe

# The message format of a transfer that has a batch of messages.
BATCH_FORMAT = 0x80013700
_SETTLEMENTS = {0x24: "complete", 0x25: "dead-letter", 0x26: "abandon", 0x27: "abandon"}
_OPERATIONS = {
    "com.microsoft:renew-lock": "renew",
    "com.microsoft:peek-message": "peek",
    "com.microsoft:update-disposition": "abandon",
}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Counts:
    """Counts the operations of several connections by name, such as `send` or `GET outcomes`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, operation: str, count: int = 1) -> None:
        """Add `count` operations with the name `operation`."""
        with self._lock:
            self._counts[operation] += count

    def read(self) -> Counter[str]:
        """Return a copy of the counts."""
        with self._lock:
            return Counter(self._counts)


def observe_amqp(counts: Counts) -> NewObservers:
    """Return a function that creates an observer for each direction of a Service Bus connection.

    `send` and `receive` count messages, `complete` and the other settlements each settled message,
    `authorise` the requests to `$cbs`, and other names the management requests.
    """

    def new() -> tuple[Observe, Observe]:
        links: dict[tuple[int, int], str] = {}
        return (
            _Frames(_Client(counts, links).record).feed,
            _Frames(_Server(counts).record).feed,
        )

    return new


def observe_http(counts: Counts, name: Callable[[str, str], str]) -> NewObservers:
    """Return a function that creates two observers of an HTTP connection, of which one counts.

    `name` returns the name of an operation, given the method and the target of its request.
    """
    return lambda: (_Requests(counts, name).feed, lambda _: None)


class _Frames:
    """Splits the bytes of one direction of an AMQP connection into frames."""

    def __init__(self, record: Callable[[int, bytes], None]) -> None:
        self._record = record
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= HEADER_BYTES:
            size, doublewords, kind, channel = struct.unpack_from(">IBBH", self._data)
            is_header = self._data.startswith(b"AMQP")
            size = HEADER_BYTES if is_header else size
            if len(self._data) < size:
                return
            body = self._data[4 * doublewords : size]
            self._data = self._data[size:]
            if not is_header and kind == AMQP_FRAME and body:
                self._record(channel, body)


class _Client:
    """Counts the operations in the AMQP frames that a client sends to Service Bus."""

    def __init__(self, counts: Counts, links: dict[tuple[int, int], str]) -> None:
        self._counts = counts
        self._links = links
        self._payload = b""
        self._is_batch = False

    def record(self, channel: int, body: bytes) -> None:
        frame, offset = read_performative(body)
        if isinstance(frame, Attach):
            target = frame.target.value[0] if frame.target is not None else None
            self._links[channel, frame.handle] = str(target)
        elif isinstance(frame, Transfer):
            if not self._payload:
                self._is_batch = frame.message_format == BATCH_FORMAT
            self._payload += body[offset:]
            if frame.more:
                return
            # Each message of a batch is in a section of its own.
            count = len(split(self._payload).body) if self._is_batch else 1
            self._counts.add(self._name(self._links[channel, frame.handle], self._payload), count)
            self._payload = b""
        elif isinstance(frame, Disposition) and frame.role and frame.state is not None:
            last = frame.first if frame.last is None else frame.last
            self._counts.add(_SETTLEMENTS[frame.state.descriptor], last - frame.first + 1)

    @staticmethod
    def _name(target: str, payload: bytes) -> str:
        if target.endswith("$cbs"):
            return "authorise"
        if not target.endswith("$management"):
            return "send"
        properties = section_value(split(payload).application_properties)
        operation = str(properties["operation"])
        return _OPERATIONS.get(operation, operation)


class _Server:
    """Counts the messages in the AMQP frames that Service Bus sends to a client."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._queues: set[tuple[int, int]] = set()
        self._is_continued = False

    def record(self, channel: int, body: bytes) -> None:
        frame, _ = read_performative(body)
        if isinstance(frame, Attach):
            source = str(frame.source.value[0]) if frame.source is not None else ""
            is_queue = not frame.role and not source.endswith(("$cbs", "$management"))
            (self._queues.add if is_queue else self._queues.discard)((channel, frame.handle))
        elif isinstance(frame, Transfer):
            if not self._is_continued and (channel, frame.handle) in self._queues:
                self._counts.add("receive")
            self._is_continued = frame.more


class _Requests:
    """Counts the requests of one HTTP connection. The bodies must have a Content-Length."""

    def __init__(self, counts: Counts, name: Callable[[str, str], str]) -> None:
        self._counts = counts
        self._name = name
        self._data = b""
        self._body_bytes = 0

    def feed(self, data: bytes) -> None:
        self._data += data
        while True:
            skipped = min(self._body_bytes, len(self._data))
            self._data = self._data[skipped:]
            self._body_bytes -= skipped
            end = self._data.find(_END_OF_HEAD)
            if self._body_bytes or end < 0:
                return
            head = self._data[:end]
            self._data = self._data[end + len(_END_OF_HEAD) :]
            length = _LENGTH.search(head)
            self._body_bytes = int(length[1]) if length else 0
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            self._counts.add(self._name(method, target))
