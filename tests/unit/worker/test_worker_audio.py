"""Test how WAV files are decoded."""

import contextlib
import io
import struct
import tracemalloc
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.worker.pictures import encode_wav, wav_chunk
from worker.errors import InvalidInput
from worker.inputs.audio import Audio, open_recording

pytestmark = pytest.mark.torch  # NumPy is installed with torch

RATE = 16_000
TONE = np.sin(np.arange(RATE // 10) * 2 * np.pi * 440 / RATE).astype(np.float32) * 0.5


def decode(data: bytes, sample_rate: int | None = None) -> Audio:
    return open_recording(data, sample_rate).decode()


def pcm(bits: int) -> bytes:
    scaled = np.round(TONE.astype(np.float64) * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return bytes((scaled + 128).astype(np.uint8))
    return b"".join(int(value).to_bytes(bits // 8, "little", signed=True) for value in scaled)


@pytest.mark.parametrize(("bits", "off"), [(8, 0.02), (16, 1e-4), (24, 1e-6), (32, 1e-6)])
def test_pcm_of_every_width_is_the_same_sound(bits: int, off: float) -> None:
    audio = decode(encode_wav(pcm(bits), bits))
    assert audio.sample_rate == RATE
    assert audio.samples.dtype == np.float32
    assert np.abs(audio.samples - TONE).max() < off
    assert audio.seconds == pytest.approx(0.1)


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_stay_as_they_are(bits: int) -> None:
    body = TONE.astype(f"<f{bits // 8}").tobytes()
    assert np.array_equal(decode(encode_wav(body, bits, kind=3)).samples, TONE)


def test_channels_are_mixed_into_one() -> None:
    frames = np.stack([TONE, -TONE, np.zeros_like(TONE), TONE], axis=1)
    body = frames.astype("<f4").tobytes()
    audio = decode(encode_wav(body, 32, kind=3, channels=4))
    assert np.allclose(audio.samples, TONE / 4, atol=1e-7)


def test_subformat_of_an_extensible_header_counts() -> None:
    guid = struct.pack("<H", 3) + bytes.fromhex("000000001000800000aa00389b71")
    more = struct.pack("<HHI", 22, 32, 0) + guid
    data = encode_wav(TONE.astype("<f4").tobytes(), 32, kind=0xFFFE, more=more)
    assert np.array_equal(decode(data).samples, TONE)


def test_file_of_the_standard_library_is_decoded() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(44_100)
        writer.writeframes(np.repeat((TONE * 32767).astype("<i2"), 2).tobytes())
    audio = decode(file.getvalue())
    assert audio.sample_rate == 44_100
    assert np.abs(audio.samples - TONE).max() < 1e-4


def test_unknown_chunks_are_skipped() -> None:
    plain = encode_wav(pcm(16), 16)
    data = plain[:12] + wav_chunk(b"LIST", b"odd") + plain[12:] + wav_chunk(b"id3 ", b"x")
    assert len(decode(data).samples) == len(TONE)


def test_unknown_length_reads_to_the_end() -> None:
    plain = encode_wav(pcm(16), 16)
    at = plain.index(b"data") + 4
    assert len(decode(plain[:at] + b"\xff\xff\xff\xff" + plain[at + 4 :]).samples) == len(TONE)


GOOD = encode_wav(pcm(16), 16)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a WAV file"),
        (b"OggS" + bytes(40), "not a WAV file"),
        (GOOD[:-2], "truncated: a chunk should have 3200 bytes, but only 3198 bytes follow"),
        (GOOD[:30], "truncated"),
        (GOOD[:36], "no data chunk with samples"),
        (encode_wav(b"", 16), "no samples, or its last sample is incomplete"),
        (encode_wav(b"abc", 16), "no samples, or its last sample is incomplete"),
        (encode_wav(b"ab", 16, channels=0), "has 0 channels"),
        (encode_wav(bytes(66), 8, channels=33), "has 33 channels"),
        (encode_wav(b"ab", 16, rate=1), "at 1 Hz"),
        (encode_wav(b"ab", 12), "expected PCM"),
        (encode_wav(b"ab", 8, kind=7), "expected PCM"),
        (encode_wav(b"abcd", 32, kind=0xFFFE), "expected PCM"),
        (
            GOOD.replace(struct.pack("<HH", 2, 16), struct.pack("<HH", 4, 16)),
            "channels and bits per sample require 2 bytes",
        ),
        (encode_wav(struct.pack("<f", float("nan")), 32, kind=3), "NaN or infinite"),
        (encode_wav(struct.pack("<d", 1e300), 64, kind=3), "NaN or infinite"),
        (b"RIFF\0\0\0\0WAVE" + wav_chunk(b"data", b"ab"), "a data chunk before its fmt chunk"),
        (b"RIFF\0\0\0\0WAVE" + wav_chunk(b"JUNK", b"") * 300, "more than 256 chunks"),
    ],
)
def test_refusal_states_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        decode(data)


@settings(max_examples=300)
@given(st.data())
def test_damaged_file_is_decoded_or_refused(data: st.DataObject) -> None:
    broken = bytearray(GOOD[:200])
    for place in data.draw(st.lists(st.integers(0, 199), max_size=12)):
        broken[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidInput):
        audio = decode(bytes(broken))
        assert audio.samples.nbytes <= 4 * len(broken)


def tone(rate: int, seconds: float = 1.0) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    angles = np.arange(round(rate * seconds)) * 2 * np.pi * 440 / rate
    return np.sin(angles).astype(np.float32)


@pytest.mark.parametrize("rate", [4_000, 8_000, 11_025, 44_100, 48_000, 44_101, 384_000])
def test_resampled_tone_keeps_its_shape(rate: int) -> None:
    body = tone(rate, 3.0).astype("<f4").tobytes()
    audio = decode(encode_wav(body, 32, kind=3, rate=rate), RATE)
    assert audio.sample_rate == RATE
    assert audio.seconds == pytest.approx(3.0, abs=0.001)
    expected = tone(RATE, 3.0)
    assert np.allclose(audio.samples[800 : 3 * RATE - 800], expected[800:-800], rtol=0, atol=0.02)


@pytest.mark.parametrize("rate", [4_000, 16_000, 384_000])
def test_one_sample_is_resampled_to_at_least_one(rate: int) -> None:
    audio = decode(encode_wav(np.array([0.5], np.float32).tobytes(), 32, kind=3, rate=rate), RATE)
    assert len(audio.samples) >= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pieces_have_all_samples_of_the_file(channels: int) -> None:
    wanted = np.random.default_rng(3).integers(-(2**15), 2**15, 2_000_000).astype("<i2")
    frames = np.repeat(wanted[:, None], channels, axis=1)
    audio = decode(encode_wav(frames.tobytes(), 16, channels=channels))
    # An approximate comparison of two million values by pytest takes seconds.
    assert np.allclose(audio.samples, wanted.astype(np.float32) / 2**15, rtol=0, atol=1e-6)


def test_memory_is_that_of_the_resampled_samples() -> None:
    """The sample rate is 384 kHz, but the model needs 16 kHz, so one in 24 samples is kept."""
    body = bytes(4 * 1024 * 1024)
    recording = open_recording(encode_wav(body, 8, rate=384_000), RATE)
    assert recording.memory_bytes < 4 * len(body) // 24 + 17 * 1024 * 1024
    tracemalloc.start()
    recording.decode()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < recording.memory_bytes
