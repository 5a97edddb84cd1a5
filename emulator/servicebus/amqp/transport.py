"""Send the bytes of a connection, and count the received bytes that are not yet processed.

A connection shares its `PeerTransport` and its `PendingWork` with its sessions.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from emulator.servicebus.amqp.errors import AmqpError, ConnectionFault
from emulator.servicebus.amqp.frames import MIN_MAX_FRAME_BYTES, encode_frame

_LINGER_SECONDS = 5.0
_WRITE_BUFFER_BYTES = 1024 * 1024


@dataclass
class Latency:
    """The time in seconds by which bytes are delayed in each direction of each connection."""

    seconds: float = 0.0


class DelayLine:
    """Delays bytes by the given latency, then passes the bytes to `deliver` in the same order."""

    def __init__(self, latency: Latency, deliver: Callable[[bytes], None]) -> None:
        self._latency = latency
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes]] = deque()

    def put(self, data: bytes) -> None:
        """Deliver bytes after the latency, or at once without one."""
        if not self._latency.seconds and not self._waiting:
            self._deliver(data)
            return
        self._waiting.append((self._loop.time() + self._latency.seconds, data))
        if len(self._waiting) == 1:
            self._wait()

    def flush(self) -> None:
        """Deliver all waiting bytes now."""
        while self._waiting:
            self._deliver(self._waiting.popleft()[1])

    def clear(self) -> None:
        """Discard all waiting bytes."""
        self._waiting.clear()

    def _wait(self) -> None:
        self._loop.call_at(self._waiting[0][0], self._deliver_due)

    def _deliver_due(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            self._deliver(self._waiting.popleft()[1])
        if self._waiting:
            self._wait()


class PeerTransport:
    """Sends bytes to one peer, in one write for each iteration of the event loop."""

    def __init__(self, latency: Latency) -> None:
        self._delay = DelayLine(latency, self._write_now)
        self.is_blocked = False
        """Whether the transport's write buffer is full."""
        self.is_reading = True
        self.peer_max_frame_bytes = MIN_MAX_FRAME_BYTES
        self._loop = asyncio.get_running_loop()
        self.sent_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._flush_scheduled = False

    def connect(self, transport: asyncio.BaseTransport) -> None:
        """Set the asyncio transport to which this object writes."""
        # uvloop's transports are not subclasses of asyncio.Transport but have its methods.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def disconnect(self) -> None:
        """Stop using the asyncio transport, because the connection is lost."""
        self._transport = None
        self._delay.clear()

    def send(self, channel: int, body: bytes) -> None:
        """Send a frame in the next iteration of the event loop."""
        self.write(encode_frame(body, channel))

    def write(self, data: bytes) -> None:
        """Send bytes in the next iteration of the event loop."""
        self._outgoing.append(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def set_reading(self, reading: bool) -> None:
        """Resume reading from the peer if `reading` is True. Otherwise pause reading."""
        if reading == self.is_reading or self._transport is None or self._transport.is_closing():
            return
        self.is_reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Send all bytes, and close the transport, by force after 5 s."""
        self._flush()
        self._delay.flush()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_LINGER_SECONDS, self._transport.abort)

    def _flush(self) -> None:
        self._flush_scheduled = False
        outgoing, self._outgoing = self._outgoing, []
        if outgoing:
            self.sent_at = self._loop.time()
            self._delay.put(b"".join(outgoing))

    def _write_now(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


_WORK_BYTES = 8 * 1024 * 1024
_PARTIAL_BYTES = 8 * 1024 * 1024

logger = logging.getLogger(__name__)


class PendingWork:
    """Counts the bytes that one peer has sent and the server has not yet processed.

    Beyond 8 MiB in processing, the connection does not read. Beyond 8 MiB in incomplete deliveries,
    it is closed.
    """

    def __init__(
        self, on_change: Callable[[], None], on_fault: Callable[[AmqpError], None]
    ) -> None:
        self._on_change = on_change
        self._on_fault = on_fault
        self._create_task = asyncio.get_running_loop().create_task
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._partial_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether more than 8 MiB are in processing, so that the connection must not read."""
        return self._bytes > _WORK_BYTES

    def add_partial(self, count: int) -> None:
        """Count bytes of incomplete deliveries. Raises ConnectionFault beyond 8 MiB."""
        self._partial_bytes += count
        if self._partial_bytes > _PARTIAL_BYTES:
            raise ConnectionFault(
                "amqp:resource-limit-exceeded",
                f"the incomplete deliveries of the connection exceed {_PARTIAL_BYTES} bytes",
            )

    def begin_delivery(self, count: int) -> None:
        """Record that a delivery of `count` bytes is completely received and is being processed."""
        self._partial_bytes -= count
        self._bytes += count
        self._on_change()

    def end_delivery(self, count: int) -> None:
        """Record that a delivery of `count` bytes has been processed."""
        self._bytes -= count
        self._on_change()

    def spawn(self, operation: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task. If the task raises an error, close the connection."""
        task = self._create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        if isinstance(error, AmqpError):
            self._on_fault(error)
            return
        logger.error(
            "an AMQP message or settlement could not be processed; closing the connection",
            exc_info=error,
        )
        self._on_fault(ConnectionFault("amqp:internal-error", "an internal error occurred"))
