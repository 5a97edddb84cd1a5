"""Test how media types, sizes of pictures and forms are read from the bytes of an input."""

import io
import struct

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import media
from gateway.errors import UnreadableImage
from gateway.submission.forms import MAX_PARTS, read_form
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


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@given(
    name=names.filter(lambda name: '"' not in name and "\\" not in name),
    data=st.binary() | st.binary().map(lambda data: b"\r\n--" + data + b"\r\n"),
    text=st.text(),
)
def test_form_written_by_httpx_is_read_unchanged(name: str, data: bytes, text: str) -> None:
    request = httpx.Request(
        "POST",
        "http://a",
        files=[(name, ("file name", data, "image/png")), ("option", (None, text))],
    )
    first, second = read_form(request.headers["content-type"], request.read())
    assert (first.name, first.is_file) == (name, True)
    assert (first.media_type, first.data) == ("image/png", data)
    assert (second.name, second.is_file) == ("option", False)
    assert second.data.decode("utf-8", "surrogatepass") == text


HEAD = b'Content-Disposition: form-data; name="a"\r\n'


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"--b\r\n" + HEAD + b"\r\nx\r\n--b--", [b"x"]),
        (b"preamble\r\n--b\r\n" + HEAD + b"\r\n\r\n--b--\r\nepilogue", [b""]),
        (b"--b \t\r\n" + HEAD.replace(b'"', b"").lower() + b"\r\n\r\n\r\n--b--", [b"\r\n"]),
        (b"--b\r\n" + HEAD + b"\r\n--b--", [b""]),
        (b"--b--", []),
    ],
)
def test_preamble_and_empty_parts_are_accepted(body: bytes, data: list[bytes]) -> None:
    parts = read_form("multipart/form-data; boundary=b", body)
    assert [part.data for part in parts] == data
    assert {part.name for part in parts} <= {"a"}


PART = b"--b\r\n" + HEAD + b"\r\nx\r\n"


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", b"--b--", "boundary"),
        ("multipart/form-data; boundary=", b"--b--", "boundary"),
        (f"multipart/form-data; boundary={'b' * 201}", b"--b--", "boundary"),
        ("multipart/form-data; boundary=b", b"", "boundary"),
        ("multipart/form-data; boundary=b", PART, "does not end"),
        ("multipart/form-data; boundary=b", b"--b\r\nx--b--", "missing or too large"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: y\r\n\r\n\r\n--b--", "no name"),
        ("multipart/form-data; boundary=b", b"--b\r\nX: \xff\r\n\r\n\r\n--b--", "UTF-8"),
        ("multipart/form-data; boundary=b", b"--b" + b"a" * 9000 + b"\r\n\r\n\r\n--b--", "headers"),
        ("multipart/form-data; boundary=b", PART * (MAX_PARTS + 1) + b"--b--", "more than"),
    ],
)
def test_malformed_form_is_refused(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_form(content_type, body)


@given(body=st.lists(st.sampled_from([b"--b", b"\r\n", HEAD, b"--", b"x", b"\xff"])).map(b"".join))
def test_any_body_is_read_or_raises_value_error(body: bytes) -> None:
    try:
        parts = read_form("multipart/form-data; boundary=b", body)
    except ValueError:
        return
    assert all(part.name == "a" for part in parts)
