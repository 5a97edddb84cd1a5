"""The transport of a connection: bytes that go out, and whether any are to come in."""

import asyncio
from typing import cast

from emulator.servicebus.amqp.frames import MIN_MAX_FRAME_BYTES, encode_frame

_LINGER_SECONDS = 5.0
_WRITE_BUFFER_BYTES = 1024 * 1024


class Wire:
    """Sends to one peer. What is sent within one tick of the loop goes out in one write."""

    def __init__(self) -> None:
        self.blocked = False
        """Whether the peer does not read what it is sent."""
        self.reading = True
        self.peer_max_frame_bytes = MIN_MAX_FRAME_BYTES
        self._loop = asyncio.get_running_loop()
        self.sent_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._flush_scheduled = False

    def connect(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports have the methods of asyncio.Transport without being of that class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    def disconnect(self) -> None:
        """Forget the transport, which is lost."""
        self._transport = None

    def send(self, channel: int, body: bytes) -> None:
        """Send a frame, together with all others of this tick."""
        self.write(encode_frame(body, channel))

    def write(self, data: bytes) -> None:
        """Send bytes, together with all others of this tick."""
        self._outgoing.append(data)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def set_reading(self, reading: bool) -> None:
        """Read on, or let the peer wait."""
        if reading == self.reading or self._transport is None or self._transport.is_closing():
            return
        self.reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Send what is left and close the socket, by force if the peer does not read it."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_LINGER_SECONDS, self._transport.abort)

    def _flush(self) -> None:
        self._flush_scheduled = False
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self.sent_at = self._loop.time()
            self._transport.write(b"".join(outgoing))
