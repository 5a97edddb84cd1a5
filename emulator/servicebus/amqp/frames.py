"""Split the bytes of a connection into frames (section 2.3 of the specification)."""

import struct
from dataclasses import dataclass

from emulator.servicebus.amqp.errors import FramingError

AMQP_FRAME = 0
SASL_FRAME = 1
MIN_MAX_FRAME_BYTES = 512
HEADER_BYTES = 8

_HEAD = struct.Struct(">IBBH")
_HEAD_DOUBLEWORDS = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """An AMQP or SASL frame. An AMQP frame without a body only keeps the connection alive."""

    type: int
    channel: int
    body: bytes


def encode_frame(body: bytes, channel: int = 0, frame_type: int = AMQP_FRAME) -> bytes:
    """Return an encoded frame, which consists of a header and the given body."""
    return _HEAD.pack(len(body) + HEADER_BYTES, _HEAD_DOUBLEWORDS, frame_type, channel) + body


class AmqpFrameReader:
    """Splits received bytes into protocol headers and frames."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._data = b""
        self._offset = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes to the buffer."""
        self._data = self._data[self._offset :] + data if self._offset < len(self._data) else data
        self._offset = 0

    def header(self) -> bytes | None:
        """Return the next protocol header, or None if not all of its bytes have been received."""
        return self._take(HEADER_BYTES)

    def frame(self) -> Frame | None:
        """Return the next complete frame, or None. Raises FramingError if it is invalid."""
        data, offset = self._data, self._offset
        if len(data) - offset < HEADER_BYTES:
            return None
        size, doublewords, frame_type, channel = _HEAD.unpack_from(data, offset)
        head_bytes = 4 * doublewords
        if size > self._max_frame_bytes:
            raise FramingError(
                f"a frame of {size} bytes exceeds the limit of {self._max_frame_bytes} bytes"
            )
        if doublewords < _HEAD_DOUBLEWORDS or head_bytes > size:
            raise FramingError(
                "the data offset of a frame must be at least 2 words of 4 bytes, and must not "
                f"exceed the size of the frame: found {doublewords} in a frame of {size} bytes"
            )
        if frame_type not in {AMQP_FRAME, SASL_FRAME}:
            raise FramingError(f"the frame type {frame_type} is unknown")
        body = self._take(size)
        return None if body is None else Frame(frame_type, channel, body[head_bytes:])

    def _take(self, length: int) -> bytes | None:
        end = self._offset + length
        if end > len(self._data):
            return None
        taken = self._data[self._offset : end]
        self._offset = end
        return taken
