"""Test that media types and picture sizes are recognised from the first bytes."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import media
from gateway.errors import UnreadableImage
from gateway.submission.images import read_dimensions

PICTURES = ["image/jpeg", "image/png", "image/webp"]
SIGNATURES = {
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/webp": b"RIFF\0\0\0\0WEBP",
    "audio/wav": b"RIFF\0\0\0\0WAVE",
    "image/gif": b"GIF89a",
    "application/pdf": b"%PDF-1.7",
}


@pytest.mark.parametrize("name", SIGNATURES)
@given(tail=st.binary(max_size=20))
def test_type_is_recognised_by_the_first_bytes(name: str, tail: bytes) -> None:
    data = SIGNATURES[name] + tail
    assert media.sniff(data) == name
    assert [other for other in SIGNATURES if media.agrees(other, data)] == [name]
    assert not media.agrees("text/plain", data)
    assert media.agrees("application/octet-stream", data)


@given(data=st.binary(max_size=40))
def test_recognising_any_bytes_raises_no_error(data: bytes) -> None:
    found = media.sniff(data)
    assert found is None or media.agrees(found, data)


def test_only_text_without_nul_bytes_is_text() -> None:
    assert media.agrees("text/plain", b"words")
    assert not media.agrees("text/plain", b"wo\0rds")


def test_text_is_no_png() -> None:
    assert not media.agrees("image/png", b"words")


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [("Image/JPEG", "image/jpeg"), (" text/plain ; charset=utf-8", "text/plain"), ("", "")],
)
def test_essence_has_no_parameters(given_type: str, expected: str) -> None:
    assert media.essence(given_type) == expected


def jpeg(width: int, height: int, before: bytes = b"", marker: int = 0xC0) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3)
    return b"\xff\xd8" + before + frame + b"\0" * 20


def png(width: int, height: int) -> bytes:
    return SIGNATURES["image/png"] + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"\0" * 9


def webp_lossy(width: int, height: int) -> bytes:
    frame = b"\x30\x01\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return SIGNATURES["image/webp"] + b"VP8 \0\0\0\0" + frame


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return SIGNATURES["image/webp"] + b"VP8L\0\0\0\0\x2f" + struct.pack("<I", bits) + b"\0" * 8


def webp_extended(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return SIGNATURES["image/webp"] + b"VP8X\0\0\0\0\0\0\0\0" + size


@pytest.mark.parametrize(
    ("media_type", "make", "largest"),
    [
        ("image/png", png, 2**32 - 1),
        ("image/jpeg", jpeg, 2**16 - 1),
        ("image/webp", webp_lossy, 2**14 - 1),
        ("image/webp", webp_lossless, 2**14),
        ("image/webp", webp_extended, 2**24),
    ],
)
def test_dimensions_are_read_from_the_header(media_type: str, make: object, largest: int) -> None:
    assert callable(make)
    for width, height in ((1, 1), (640, 480), (largest, 1), (1, largest)):
        data = make(width, height)
        assert read_dimensions(media_type, data) == (width, height)
        for length in range(len(data) - 21):
            with pytest.raises(UnreadableImage):
                read_dimensions(media_type, data[:length])


@pytest.mark.parametrize("marker", sorted({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}))
def test_dimensions_are_read_from_every_jpeg_frame(marker: int) -> None:
    assert read_dimensions("image/jpeg", jpeg(3, 2, marker=marker)) == (3, 2)


@given(
    segments=st.lists(
        st.tuples(
            st.sampled_from([0xC4, 0xC8, 0xCC, 0xDB, 0xE0, 0xE1, 0xFE]),
            st.binary(max_size=50),
            st.integers(0, 3),
        )
    )
)
def test_segments_before_the_frame_are_skipped(segments: list[tuple[int, bytes, int]]) -> None:
    before = b"".join(
        b"\xff" * fill + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content, fill in segments
    )
    assert read_dimensions("image/jpeg", jpeg(5, 7, before)) == (5, 7)


@pytest.mark.parametrize("before", [b"\xff\xd9", b"\xff\xda\0\x02", b"\xff\xe0\0\x01"])
def test_jpeg_without_a_frame_header_is_refused(before: bytes) -> None:
    with pytest.raises(UnreadableImage):
        read_dimensions("image/jpeg", jpeg(5, 7, before))


@pytest.mark.parametrize("piece", [b"\xff\xd0", b"\xff", b"\xff\0", b"\xff\xe0\0\x02"])
def test_jpeg_with_too_many_markers_is_refused(piece: bytes) -> None:
    before = piece * 1_000_000
    with pytest.raises(UnreadableImage, match="among its first 2000 markers"):
        read_dimensions("image/jpeg", jpeg(5, 7, before))


def test_frame_header_after_1000_fill_bytes_is_found() -> None:
    assert read_dimensions("image/jpeg", jpeg(5, 7, b"\xff" * 1000)) == (5, 7)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_width_or_height_of_zero_is_refused(size: tuple[int, int]) -> None:
    for media_type, data in (("image/png", png(*size)), ("image/jpeg", jpeg(*size))):
        with pytest.raises(UnreadableImage):
            read_dimensions(media_type, data)


@pytest.mark.parametrize("media_type", PICTURES)
@given(data=st.binary(max_size=200))
def test_any_bytes_have_dimensions_or_are_unreadable(media_type: str, data: bytes) -> None:
    for content in (data, SIGNATURES[media_type] + data):
        try:
            found = read_dimensions(media_type, content)
        except UnreadableImage:
            continue
        assert found is not None
        assert min(found) > 0


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"progressive": True}])
def test_dimensions_equal_those_written_by_pillow(
    picture_format: str, options: dict[str, bool]
) -> None:
    image = pytest.importorskip("PIL.Image", exc_type=ImportError)
    buffer = io.BytesIO()
    image.new("RGB", (123, 45)).save(buffer, picture_format, **options)
    data = buffer.getvalue()
    media_type = f"image/{picture_format.lower()}"
    assert media.agrees(media_type, data)
    assert read_dimensions(media_type, data) == (123, 45)


def test_other_media_types_have_no_dimensions() -> None:
    assert read_dimensions("text/plain", b"") is None
