"""Encoded pictures and other media as the inputs of tests."""

import io
import struct
import zlib

from PIL import Image

MIB = 1024 * 1024


def encode_picture(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def white_png(width: int, height: int = 2) -> bytes:
    return encode_picture(Image.new("L", (width, height), 255))


def blank_png(width: int, height: int, *, rows: int | None = None) -> bytes:
    """Return a PNG with this size, whose pixels are all transparent, so that the file is small.

    It contains only the first `rows` rows of pixels.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    packer = zlib.compressobj(1)
    line = bytes(width * 4 + 1)
    pixels = b"".join(packer.compress(line) for _ in range(height if rows is None else rows))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def encode_wav(
    body: bytes,
    bits: int = 16,
    *,
    kind: int = 1,
    channels: int = 1,
    rate: int = 16_000,
    more: bytes = b"",
) -> bytes:
    """Return a WAV file with these samples. `more` follows the usual fields of the fmt chunk."""
    frame_bytes = channels * bits // 8
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * frame_bytes, frame_bytes, bits)
    parts = b"WAVE" + wav_chunk(b"fmt ", head + more) + wav_chunk(b"data", body)
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


def wav_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
