"""Decode untrusted WAV files.

Supports RIFF/WAVE files, plain or EXTENSIBLE, with PCM samples of 8, 16, 24 or 32 bits or IEEE
floats of 32 or 64 bits. The samples are decoded, mixed and resampled in pieces, so that only the
result needs memory.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING, Final

from worker.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PCM: Final = 1
_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
_BITS: Final = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}
# The last 14 bytes of the EXTENSIBLE header's GUID; its first two bytes are the format.
_GUID_REST: Final = bytes.fromhex("000000001000800000aa00389b71")

_CHANNELS: Final = range(1, 33)
# At a lower rate, a short input would grow without bounds when a model resamples it.
RATES: Final = range(4_000, 384_001)
"""The accepted sample rates, in samples per second."""
_MAX_CHUNKS: Final = 256
# Programs that write to a pipe do not know the length, and write this value instead.
_UNKNOWN_LENGTH: Final = 0xFFFFFFFF

# A piece has at most this many bytes in the file. Its samples need up to 16 times as many.
_PIECE_BYTES: Final = 1024 * 1024
_SAMPLE_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Audio:
    """A sound recording whose channels are mixed into one, with `sample_rate` samples per second.

    The samples are float32 of shape (count,), normally from -1 to 1. Samples outside this range,
    which a file of floats may contain, are not clipped.
    """

    samples: "NDArray[np.float32]" = field(repr=False)
    sample_rate: int

    @property
    def seconds(self) -> float:
        """The duration of the recording in seconds."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class _Format:
    kind: int
    channels: int
    rate: int
    bits: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.bits // 8


@dataclass(frozen=True, slots=True)
class Recording:
    """An opened WAV file, whose samples are not decoded yet. `sample_rate` is that of `decode`."""

    _format: _Format
    _body: memoryview = field(repr=False)
    sample_rate: int

    @property
    def memory_bytes(self) -> int:
        """How many bytes `decode` needs at most."""
        return _SAMPLE_BYTES * self._count + 16 * min(len(self._body), _PIECE_BYTES)

    @property
    def _count(self) -> int:
        """The largest number of samples that `decode` may return."""
        frames = len(self._body) // self._format.frame_bytes
        return max(1, frames * self.sample_rate // self._format.rate) + 1

    def decode(self) -> Audio:
        """Decode, mix the channels into one, and resample, or raise InvalidInput."""
        import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

        samples, end = np.empty(self._count, np.float32), 0
        resample = _resampler(self._format.rate, self.sample_rate)
        for piece, is_last in self._pieces():
            found = resample(_samples(self._format, piece), is_last)[: len(samples) - end]
            samples[end : end + len(found)] = found
            end += len(found)
        return Audio(samples[: max(1, end)], self.sample_rate)

    def _pieces(self) -> Iterator[tuple[memoryview, bool]]:
        size_bytes = max(1, _PIECE_BYTES // self._format.frame_bytes) * self._format.frame_bytes
        for start in range(0, len(self._body), size_bytes):
            end = start + size_bytes
            yield self._body[start:end], end >= len(self._body)


def open_recording(data: bytes | mmap, sample_rate: int | None = None) -> Recording:
    """Read the header of a WAV file to decode later, or raise InvalidInput.

    `decode` resamples the recording to `sample_rate` if it is not None.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InvalidInput("the input is not a WAV file: it does not begin with a RIFF/WAVE header")
    shape: _Format | None = None
    for name, body in _chunks(memoryview(data)[12:]):
        if name == b"fmt ":
            shape = _format(body)
        elif name == b"data":
            if shape is None:
                raise InvalidInput("the WAV file has a data chunk before its fmt chunk")
            if not body or len(body) % shape.frame_bytes:
                raise InvalidInput("the WAV file has no samples, or its last sample is incomplete")
            return Recording(shape, body, sample_rate or shape.rate)
    raise InvalidInput("the WAV file has no data chunk with samples")


def _resampler(
    rate: int, wanted: int
) -> "Callable[[NDArray[np.float32], bool], NDArray[np.float32]]":
    """Return a function that resamples one piece after the other, and is told which is the last."""
    if rate == wanted:
        return lambda piece, _is_last: piece
    import soxr  # noqa: PLC0415  only for recordings that have another rate

    stream = soxr.ResampleStream(rate, wanted, 1, dtype="float32")
    return lambda piece, is_last: stream.resample_chunk(piece, last=is_last)


def _chunks(rest: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    for _ in range(_MAX_CHUNKS):
        if len(rest) < 8:
            return
        name, size_bytes = struct.unpack_from("<4sI", rest)
        rest = rest[8:]
        if name == b"data" and size_bytes == _UNKNOWN_LENGTH:
            size_bytes = len(rest)
        if size_bytes > len(rest):
            raise InvalidInput(
                f"the WAV file is truncated: a chunk should have {size_bytes} bytes, but only "
                f"{len(rest)} bytes follow"
            )
        yield name, rest[:size_bytes]
        # Chunks begin at even offsets.
        rest = rest[size_bytes + size_bytes % 2 :]
    raise InvalidInput(f"the WAV file has more than {_MAX_CHUNKS} chunks before its samples")


def _format(body: memoryview) -> _Format:
    if len(body) < 16:
        raise InvalidInput("the fmt chunk of the WAV file has fewer than 16 bytes")
    kind, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 40 and body[26:40] == _GUID_REST:
        (kind,) = struct.unpack_from("<H", body, 24)
    if bits not in _BITS.get(kind, ()):
        raise InvalidInput(
            "the WAV file has an unsupported format; expected PCM of 8, 16, 24 or 32 bits, or "
            "floats of 32 or 64 bits"
        )
    if channels not in _CHANNELS or rate not in RATES:
        raise InvalidInput(
            f"the WAV file has {channels} channels at {rate} Hz; expected {_CHANNELS[0]} to "
            f"{_CHANNELS[-1]} channels at {RATES[0]} to {RATES[-1]} Hz"
        )
    shape = _Format(kind, channels, rate, bits)
    if frame_bytes != shape.frame_bytes:
        raise InvalidInput(
            f"the header of the WAV file gives a frame size of {frame_bytes} bytes, but its "
            f"channels and bits per sample require {shape.frame_bytes} bytes"
        )
    return shape


def _samples(shape: _Format, body: memoryview) -> "NDArray[np.float32]":
    import numpy as np  # noqa: PLC0415  a worker without such models needs no NumPy

    match shape.kind, shape.bits:
        case (_, 8):
            # In WAV files, 8-bit integers are unsigned, and all wider integers are signed.
            values = np.frombuffer(body, np.uint8).astype(np.float32) / 128 - 1
        case (_, 24):
            # Put each value into the upper three bytes of four, so that the sign is right.
            wide = np.zeros((len(body) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(body, np.uint8).reshape(-1, 3)
            values = wide.view("<i4").reshape(-1).astype(np.float32) / 2**31
        case (3, bits):
            with np.errstate(over="ignore"):
                values = np.frombuffer(body, f"<f{bits // 8}").astype(np.float32)
        case (_, bits):
            values = np.frombuffer(body, f"<i{bits // 8}").astype(np.float32) / 2 ** (bits - 1)
    mono: NDArray[np.float32] = values.reshape(-1, shape.channels).mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise InvalidInput("the WAV file has samples that are NaN or infinite")
    return mono
