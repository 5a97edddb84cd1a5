"""Read the width and height of a picture from its header.

A picture of a few kilobytes can decode to gigabytes. Therefore its width and height are checked
before the picture is decoded. The formats are defined in ITU-T T.81 annex B (JPEG), the PNG
specification 11.2.2 and RFC 9649 (WebP).
"""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import TruncatedImage, UnreadableImage

PixelSize = tuple[int, int]

MAX_JPEG_MARKERS: Final = 2000
"""A JPEG has its frame header among so many markers; most have it after fewer than 50."""

_MAX_FILL_BYTES: Final = 64

# Start-of-frame markers. The excluded ones are tables (C4), an extension (C8) and arithmetic
# coding (CC).
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_WITHOUT_LENGTH: Final = frozenset(range(0xD0, 0xD9)) | {0x01}
_JPEG_END_OF_IMAGE: Final = 0xD9
_JPEG_START_OF_SCAN: Final = 0xDA


def read_dimensions(media_type: str, data: bytes) -> PixelSize | None:
    """Return the width and height; None for other media types.

    Raises TruncatedImage if `data` ends before them, or UnreadableImage.
    """
    reader = _READERS.get(media_type)
    if reader is None:
        return None
    width, height = reader(data)
    if not width or not height:
        raise UnreadableImage("the picture has a width or height of 0")
    return width, height


def _png(data: bytes) -> PixelSize:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise UnreadableImage("the PNG has no header")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def _jpeg(data: bytes) -> PixelSize:
    position = 2
    # The search is bounded, because a body of markers would keep the event loop busy for seconds.
    for _ in range(MAX_JPEG_MARKERS):
        position = data.find(b"\xff", position)
        if position < 0:
            raise TruncatedImage("the JPEG ends before its frame header")
        # Fill bytes FF may precede a marker.
        fill = data[position : position + _MAX_FILL_BYTES]
        position += len(fill) - len(fill.lstrip(b"\xff"))
        if position + 3 > len(data):
            raise TruncatedImage("the JPEG ends before its frame header")
        marker = data[position]
        if marker == 0xFF:  # there are more fill bytes
            continue
        if marker in _JPEG_WITHOUT_LENGTH or marker == 0:
            position += 1
            continue
        if marker in (_JPEG_END_OF_IMAGE, _JPEG_START_OF_SCAN):
            raise UnreadableImage("the JPEG has no frame header")
        if marker in _JPEG_FRAMES:
            return _jpeg_frame(data[position + 1 : position + 8])
        length = int.from_bytes(data[position + 1 : position + 3])
        if length < 2:
            raise UnreadableImage("the JPEG has a segment with an invalid length")
        position += 1 + length
    raise UnreadableImage(
        f"the JPEG has no frame header among its first {MAX_JPEG_MARKERS} markers"
    )


def _jpeg_frame(segment: bytes) -> PixelSize:
    if len(segment) < 7:
        raise TruncatedImage("the JPEG ends within its frame header")
    return int.from_bytes(segment[5:7]), int.from_bytes(segment[3:5])


def _webp(data: bytes) -> PixelSize:
    if len(data) < 30:
        raise TruncatedImage("the WebP file is too short to have a header")
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return (
            int.from_bytes(data[26:28], "little") & 0x3FFF,
            int.from_bytes(data[28:30], "little") & 0x3FFF,
        )
    raise UnreadableImage("the first chunk of the WebP file is not VP8, VP8L or VP8X")


_READERS: Final[Mapping[str, Callable[[bytes], PixelSize]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/webp": _webp,
}
