"""Test how images are decoded."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.worker.pictures import blank_png, encode_picture
from worker.errors import InvalidInput
from worker.inputs.images import open_image

MAX_PIXELS = 1_000_000
CHELSEA = (Path(__file__).parents[3] / "examples" / "chelsea.jpg").read_bytes()
NOISE = encode_picture(Image.effect_noise((64, 64), 50), "PNG")


def decode(data: bytes, media_type: str) -> Image.Image:
    return open_image(data, media_type, MAX_PIXELS).decode()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("WEBP", "RGB")]
)
def test_formats_are_decoded_to_rgb(kind: str, mode: str) -> None:
    data = encode_picture(Image.new("RGB", (40, 30), (200, 10, 10)).convert(mode), kind)
    picture = decode(data, f"image/{kind.lower()}")
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    red, green, _ = picture.getpixel((5, 5))  # type: ignore[misc]  # RGB, as asserted
    assert red > 180
    assert green < 60


@pytest.mark.parametrize("mode", ["L", "I;16", "1", "LA", "RGBA"])
def test_png_of_every_colour_mode_is_decoded(mode: str) -> None:
    picture = decode(encode_picture(Image.new(mode, (8, 8))), "image/png")
    assert picture.mode == "RGB"


def test_jpeg_is_decoded_completely_before_its_file_is_closed() -> None:
    original = Image.open(io.BytesIO(CHELSEA)).convert("RGB")
    picture = decode(CHELSEA, "image/jpeg")
    assert picture.tobytes() == original.tobytes()
    assert picture.resize((20, 10)).tobytes() == original.resize((20, 10)).tobytes()


def test_transparent_areas_become_white() -> None:
    picture = decode(encode_picture(Image.new("RGBA", (4, 4)), "PNG"), "image/png")
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_rotates() -> None:
    sideways = Image.new("RGB", (40, 20))
    exif = sideways.getexif()
    exif[0x0112] = 6
    picture = decode(encode_picture(sideways, "JPEG", exif=exif), "image/jpeg")
    assert picture.size == (20, 40)


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"", "jpeg", "empty"),
        (b"hello, I am text", "jpeg", "not an image"),
        (b"\xff\xd8\xff\xe0", "jpeg", "damaged|not an image"),
        (CHELSEA[: len(CHELSEA) // 2], "jpeg", "damaged or incomplete"),
        (NOISE[: len(NOISE) // 2], "png", "damaged or incomplete"),
        (NOISE, "jpeg", "not an image of type image/jpeg"),
    ],
    ids=["empty", "text", "stub", "truncated", "truncated png", "png"],
)
def test_data_that_is_no_whole_image_is_refused(data: bytes, kind: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        decode(data, f"image/{kind}")


@pytest.mark.parametrize("side", [1001, 30_000])
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    with pytest.raises(InvalidInput, match="pixels"):
        decode(blank_png(side, side, rows=1), "image/png")


@settings(max_examples=150)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(CHELSEA) - 1), st.integers(0, 255)), min_size=1, max_size=20
    ),
    length=st.integers(0, len(CHELSEA)),
)
def test_damaged_image_is_decoded_or_refused(flips: list[tuple[int, int]], length: int) -> None:
    data = bytearray(CHELSEA)
    for position, value in flips:
        data[position] = value
    with contextlib.suppress(InvalidInput):
        assert decode(bytes(data[:length]), "image/jpeg").mode == "RGB"
